//! Tests that need no machine: each program of them runs as a whole, its tests beside each other; and the examples in the
//! documentation.

use std::cmp::Reverse;
use std::process::Command;
use std::time::Instant;

use super::build::TestBinary;
use super::pool::{cores, in_parallel};
use super::report::Report;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::steps::seconds;

/// What runs as a whole.
struct Program<'a> {
    name: &'a str,
    command: Command,
}

/// Runs these programs, or those of their tests that have the filter in their names. The examples have none.
pub(super) fn run<'a>(
    binaries: impl Iterator<Item = &'a TestBinary>,
    filter: Option<&str>,
) -> Outcome<Report> {
    let mut binaries: Vec<&TestBinary> = binaries.collect();
    // The longest first, which is the one with most in it: its tests wait for disks and clocks, while others compute.
    binaries.sort_by_key(|binary| Reverse(binary.path.metadata().map_or(0, |meta| meta.len())));
    let mut programs: Vec<Program<'_>> = binaries.into_iter().map(|binary| tests(binary, filter)).collect();
    if filter.is_none() {
        programs.insert(programs.len().min(1), examples());
    }
    let mut report = Report::default();
    for one in in_parallel(programs, cores(), run_one) {
        report.add(one?);
    }
    Ok(report)
}

fn tests<'a>(binary: &'a TestBinary, filter: Option<&str>) -> Program<'a> {
    let mut command = binary.command();
    // What a test prints is shown even where it passes: it may say that it was skipped. Many tests wait more than they compute.
    command.args(filter).args(["--show-output", &format!("--test-threads={}", 2 * cores())]);
    Program { name: &binary.name, command }
}

/// The examples in the documentation, which the compiler puts into programs.
fn examples() -> Program<'static> {
    let mut command = project::cargo();
    command.args(["test", "--workspace", "--doc"]);
    Program { name: "examples in the documentation", command }
}

fn run_one(Program { name, mut command }: Program<'_>) -> Outcome<Report> {
    let began = Instant::now();
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
