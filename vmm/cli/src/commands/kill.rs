//! `vmm kill`: stop VMs at once.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{for_each, print};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Kill {
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Kill {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        Ok(for_each(&self.vms, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            sandbox.kill()?;
            print(&format!("{}\n", sandbox.name()))
        }))
    }
}
