//! `cargo quickstart`: from a clone to a running Alpine.

use std::process::Command;

use crate::failure::Outcome;
use crate::steps::Steps;
use crate::{command, project, setup};

/// Does what is missing, and shows that it works.
pub(crate) fn run() -> Outcome {
    let mut steps = Steps::new();
    steps.step("find or install what vmm needs", || setup::install_missing(setup::TO_RUN))?;
    steps.step("build vmm", build)?;
    let vmm = project::vmm_binary();
    steps.step("pull Alpine", || command::show(Command::new(&vmm).args(["pull", "alpine"])))?;
    steps.step("boot it and run a command inside", || {
        command::show(Command::new(&vmm).args(["run", "alpine", "--", "cat", "/etc/os-release"]))
    })?;
    println!("\nReady. What took how long:\n{}\n", steps.summary());
    let vmm = project::shown(&vmm);
    println!(
        "Three things to try next:\n\
         \x20 {vmm} run -it alpine                           a shell in a machine of its own\n\
         \x20 {vmm} run -d --name web alpine && {vmm} exec web -- uname -a\n\
         \x20 {vmm} doctor                                   what this machine can do"
    );
    Ok(())
}

/// Builds the release binary, with cargo's own progress.
pub(crate) fn build() -> Outcome {
    let mut cargo = project::cargo();
    command::show(cargo.args(["build", "--release", "--package", "vmm-cli"]))
}
