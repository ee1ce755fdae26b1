//! `cargo wheel`: the Python package, with all that its users need in one file.

use std::process::Command;

use crate::failure::Outcome;
use crate::{command, project, setup};

/// Builds the shared library and `vmm`, and packs them.
pub(crate) fn run() -> Outcome {
    setup::install_missing(setup::TO_RUN)?;
    let mut cargo = project::cargo();
    let packages = ["build", "--release", "--package", "vmm-cli", "--package", "vmm-capi"];
    command::show(cargo.args(packages))?;
    let mut make = Command::new("python3");
    make.arg(project::root().join("vmm/python/make_wheel.py"));
    command::show(make.arg(project::target().join("release")).arg(project::target().join("wheels")))
}
