//! The examples in the documentation.

use std::process::Command;

use super::report::Report;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

pub(super) fn run() -> Outcome<Report> {
    let mut cargo = Command::new(project::cargo());
    cargo.current_dir(project::root()).args(["test", "--workspace", "--doc"]);
    println!("  $ {}", command::line(&cargo));
    let output = cargo.output().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let mut report = Report::default();
    report.add_output("examples in the documentation", output.status.success(), &said);
    Ok(report)
}
