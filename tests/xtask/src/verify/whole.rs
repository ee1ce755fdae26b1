//! Tests that need no machine: each program of them runs as a whole, its tests beside each other; and the examples in the
//! documentation.

use std::cmp::Reverse;
use std::sync::mpsc;
use std::time::Instant;

use super::build::TestBinary;
use super::pool::{cores, in_parallel};
use super::report::Report;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::steps::seconds;

/// What runs as a whole.
enum Program<'a> {
    Tests(&'a TestBinary),
    /// The examples in the documentation, which the compiler puts into programs.
    Examples,
}

/// Runs these programs, or those of their tests that have the filter in their names. The examples have none.
pub(super) fn run(binaries: &[TestBinary], filter: Option<&str>) -> Outcome<Report> {
    let mut programs: Vec<&TestBinary> = binaries.iter().collect();
    // The longest first, which is the one with most in it: its tests wait for disks and clocks, while others compute.
    programs.sort_by_key(|binary| Reverse(binary.path.metadata().map_or(0, |meta| meta.len())));
    let mut programs: Vec<Program<'_>> = programs.into_iter().map(Program::Tests).collect();
    if filter.is_none() {
        programs.insert(programs.len().min(1), Program::Examples);
    }
    let (sender, reports) = mpsc::channel();
    in_parallel(programs, cores(), |program| {
        // The receiver lives as long as this function.
        let _ = sender.send(run_one(&program, filter));
    });
    drop(sender);
    let mut report = Report::default();
    for one in reports {
        report.add(one?);
    }
    Ok(report)
}

fn run_one(program: &Program<'_>, filter: Option<&str>) -> Outcome<Report> {
    let began = Instant::now();
    let (name, mut command) = match program {
        Program::Tests(binary) => (binary.name.as_str(), binary.command()),
        Program::Examples => ("examples in the documentation", project::cargo()),
    };
    match program {
        // What a test prints is shown even where it passes: it may say that it was skipped.
        Program::Tests(_) => command.args(filter).arg("--show-output"),
        Program::Examples => command.args(["test", "--workspace", "--doc"]),
    };
    let output = command
        .output()
        .map_err(|error| Failure::new(format!("cannot start {}: {error}", command::line(&command))))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let ok = output.status.success();
    println!("  {} {name} ({})", if ok { "ok  " } else { "FAIL" }, seconds(began.elapsed()));
    let mut report = Report::default();
    report.add_output(name, ok, &said);
    Ok(report)
}
