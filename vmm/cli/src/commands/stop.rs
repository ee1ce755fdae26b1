//! `vmm stop`: shut VMs down in order.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{for_each, print};
use crate::error::Failure;
use crate::values;

#[derive(Args)]
pub(crate) struct Stop {
    /// How long the guest may take before it is stopped as by pulling the plug
    #[arg(long, short, value_name = "TIME", value_parser = values::duration, default_value = "10s")]
    timeout: Duration,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Stop {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        Ok(for_each(&self.vms, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            sandbox.stop(self.timeout)?;
            print(&format!("{}\n", sandbox.name()))
        }))
    }
}
