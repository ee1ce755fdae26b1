//! `vmm clone`: a VM from another one.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::print;
use crate::error::Failure;

/// Make a VM that starts from what is on the disk of another one
///
/// It takes no time however large the disk is: both share what is on it now, and what either writes is its own. The
/// VM that is cloned must be stopped.
#[derive(Args)]
#[command(after_help = "Example:
  vmm stop box && vmm clone box copy && vmm start box copy")]
pub(crate) struct Clone {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// What to call the new one
    #[arg(value_name = "NEW")]
    name: String,
}

impl Clone {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let clone = Sandbox::attach(&home, &self.vm)?.clone_to(&self.name)?;
        print(&format!("{}\n", clone.name()))?;
        Ok(ExitCode::SUCCESS)
    }
}
