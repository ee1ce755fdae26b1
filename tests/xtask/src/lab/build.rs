//! The programs of the laboratory: linked with all that they need, since nothing of this machine is in there.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::folder;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::verify::build::{TestBinary, built_by};

/// The target, named though it is usually the machine's own: flags for it are then not for build scripts and macros,
/// which cannot be static.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Tests of what the laboratory does not have: the sources, and QEMU for the software engine.
const ELSEWHERE: [&str; 3] = ["tests::engine_jail", "tests::software_engine", "tests::structure"];

/// What was built.
pub(super) struct Built {
    /// The command line under test.
    pub(super) vmm: PathBuf,
    /// Process 1 of the laboratory.
    pub(super) init: PathBuf,
}

/// Builds `vmm` and the laboratory's own programs.
pub(super) fn product() -> Outcome<Built> {
    let mut cargo = cargo("build")?;
    cargo.args(["--package", "vmm-cli", "--package", "laboratory"]).stdout(Stdio::null());
    // Who looks on sees cargo's progress; a log needs none.
    cargo.args((!std::io::stderr().is_terminal()).then_some("--quiet"));
    let status = cargo.status().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    if !status.success() {
        return Err(Failure::new(format!("`{}` failed: {status}", command::line(&cargo))));
    }
    let profile = profile_folder()?;
    Ok(Built { vmm: profile.join("vmm"), init: profile.join("laboratory-init") })
}

/// Builds the system tests that concern an engine.
pub(super) fn tests() -> Outcome<Vec<TestBinary>> {
    let mut cargo = cargo("test")?;
    let mut binaries = built_by(cargo.args(["--no-run", "--package", "vmm-tests"]))?;
    binaries.retain(|binary| binary.is_system() && !ELSEWHERE.contains(&binary.name.as_str()));
    binaries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(binaries)
}

/// Where cargo puts the programs.
fn profile_folder() -> Outcome<PathBuf> {
    Ok(folder()?.join("build").join(TARGET).join("debug"))
}

/// A cargo that builds static programs, in a target folder of their own.
fn cargo(subcommand: &str) -> Outcome<Command> {
    let mut cargo = Command::new(project::cargo());
    cargo.current_dir(project::root()).args([subcommand, "--target", TARGET, "--target-dir"]);
    cargo.arg(folder()?.join("build"));
    // Debuggers are not at hand inside, and what is not there need not be copied.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_PROFILE_DEV_DEBUG", "none");
    Ok(cargo)
}
