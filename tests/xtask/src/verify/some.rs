//! Some tests, chosen by the caller, through cargo: for the suites that repeat them.

use std::process::Stdio;

use super::report::Report;
use crate::failure::{Failure, Outcome};
use crate::project;

/// What the tests said.
pub(crate) struct Ran {
    /// How many passed.
    pub(crate) closing: String,
    /// All that they printed.
    pub(crate) said: String,
}

/// Runs `cargo test` with these arguments; says how many passed. None at all is a failure.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome<Ran> {
    let mut cargo = project::cargo();
    cargo
        .args(["test", "--quiet"])
        .args(arguments)
        .args(["--", "--show-output"])
        .env("VMM_BIN", project::vmm_binary())
        .env("VMM_TEST_IMAGES", project::test_images())
        .envs(environment.iter().copied());
    let output = cargo
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let mut report = Report::default();
    report.add_output("the tests", output.status.success(), &said);
    if report.failed() > 0 || report.passed() == 0 {
        return Err(Failure::new(report.closing_line()).hint(said));
    }
    Ok(Ran { closing: report.closing_line(), said })
}
