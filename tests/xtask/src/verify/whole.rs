//! Tests that need no machine: each program of them runs as a whole, its tests beside each other.

use std::time::Instant;

use super::build::TestBinary;
use super::report::Report;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::steps::seconds;

pub(super) fn run(binaries: &[TestBinary], filter: Option<&str>) -> Outcome<Report> {
    let mut report = Report::default();
    for binary in binaries {
        let began = Instant::now();
        let mut command = binary.command();
        // What a test prints is shown even where it passes: it may say that it was skipped.
        let output =
            command.args(filter).arg("--show-output").output().map_err(|error| {
                Failure::new(format!("cannot start {}: {error}", command::line(&command)))
            })?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let ok = output.status.success();
        println!("  {} {} ({})", if ok { "ok  " } else { "FAIL" }, binary.name, seconds(began.elapsed()));
        report.add_output(&binary.name, ok, &said);
    }
    Ok(report)
}
