//! The programs of the laboratory: those that are used and tested elsewhere, too, and its process 1.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::folder;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

/// The target, named though it is usually the machine's own: flags for it are then not for build scripts and macros,
/// which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What was built.
pub(super) struct Built {
    /// The command line under test.
    pub(super) vmm: PathBuf,
    /// Process 1 of the laboratory.
    pub(super) init: PathBuf,
    /// What looks at monitors from outside.
    pub(super) watch: PathBuf,
}

/// Builds `vmm`, and the laboratory's own program. That is linked with all that it needs: it is the first in there.
pub(super) fn product() -> Outcome<Built> {
    build(&mut cargo(&["build", "--release", "--package", "vmm-cli"]))?;
    let target_folder = folder()?.join("build");
    let mut init = cargo(&["build", "--release", "--package", "laboratory", "--target", TARGET]);
    init.arg("--target-dir").arg(&target_folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    build(&mut init)?;
    let programs = target_folder.join(TARGET).join("release");
    let (init, watch) = (programs.join("laboratory-init"), programs.join("laboratory-watch"));
    Ok(Built { vmm: project::vmm_binary(), init, watch })
}

/// Builds a program of the tests.
pub(super) fn test_program(name: &str) -> Outcome<PathBuf> {
    build(&mut cargo(&["build", "--release", "--package", "vmm-tests", "--bin", name]))?;
    Ok(project::vmm_binary().with_file_name(name))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = project::cargo();
    cargo.args(arguments).stdout(Stdio::null());
    // Who looks on sees cargo's progress; a log needs none.
    cargo.args((!std::io::stderr().is_terminal()).then_some("--quiet"));
    cargo
}

fn build(cargo: &mut Command) -> Outcome {
    let status = cargo.status().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("`{}` failed: {status}", command::line(cargo)))),
    }
}
