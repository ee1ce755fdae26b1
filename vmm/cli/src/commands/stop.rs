//! `vmm stop`: shut VMs down in order.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{Done, for_each};
use crate::error::Failure;
use crate::values;

#[derive(Args)]
pub(crate) struct Stop {
    /// How long the guest may take before it is stopped as by pulling the plug (default: as `vmm run --stop-timeout` said,
    /// or 10s)
    #[arg(long, short, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Stop {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let mut done = Done::new(self.json);
        let status = for_each(&self.vms, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            let end = sandbox.stop(self.timeout.map_or_else(|| sandbox.stop_grace(), Ok)?)?;
            done.ended(&sandbox, end)
        });
        done.finish(status)
    }
}
