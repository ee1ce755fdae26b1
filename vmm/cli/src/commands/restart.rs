//! `vmm restart`: shut VMs down in order and start them again.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{Home, Sandbox};

use super::start::start_each;
use super::{Done, attach_all};
use crate::error::Failure;
use crate::values;

#[derive(Args)]
pub(crate) struct Restart {
    /// How long a guest may take to shut down before it is stopped as by pulling the plug (default: as
    /// `vmm run --stop-timeout` said, or 10s)
    #[arg(long, short, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Restart {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        attach_all(&home, &self.vms)?;
        let mut done = Done::new(self.json);
        let status = start_each(&home, &self.vms, true, quiet, &mut done, |vm| {
            let sandbox = Sandbox::attach(&home, vm)?;
            match sandbox.stop(self.timeout.map_or_else(|| sandbox.stop_grace(), Ok)?) {
                // One that does not run is only started.
                Ok(_) | Err(vmm::Error::NotRunning { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })?;
        done.finish(status)
    }
}
