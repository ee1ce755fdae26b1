//! `vmm kill`: stop VMs at once.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{Done, for_each};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Kill {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Kill {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut done = Done::new(self.json);
        let status = for_each(&self.vms, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            let end = sandbox.kill()?;
            done.ended(&sandbox, end)
        });
        done.finish(status)
    }
}
