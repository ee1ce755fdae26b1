//! `vmm rm`: remove VMs with their disks.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{for_each, print};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Rm {
    /// Kill those that run
    #[arg(long, short)]
    force: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Rm {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        Ok(for_each(&self.vms, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            let name = sandbox.name().to_owned();
            sandbox.remove(self.force)?;
            print(&format!("{name}\n"))
        }))
    }
}
