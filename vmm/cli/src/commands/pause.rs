//! `vmm pause` and `vmm resume`: have the processors of VMs stand still, and let them go on.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{Done, attach_all, for_each};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Pause {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Pause {
    pub(super) fn pause(self) -> Result<ExitCode, Failure> {
        self.each(Sandbox::pause)
    }

    pub(super) fn resume(self) -> Result<ExitCode, Failure> {
        self.each(Sandbox::resume)
    }

    fn each(self, call: impl Fn(&Sandbox) -> Result<(), vmm::Error>) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut done = Done::new(self.json);
        let status = for_each(attach_all(&home, &self.vms)?, |sandbox| {
            call(&sandbox)?;
            done.vm(&sandbox)
        });
        done.finish(status)
    }
}
