//! `vmm wait`: until VMs, or a command in one, have ended.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, Home, ProcessId, Sandbox};

use super::{Done, attach_all, for_each, print_json};
use crate::error::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm wait box                    prints box when it has stopped
  vmm wait box --process 7        ends with the status of that command")]
pub(crate) struct Wait {
    /// Wait for this command in the VM, and end with its status
    #[arg(long, short, value_name = "ID")]
    process: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Wait {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        if let Some(process) = self.process {
            let [vm] = self.vms.as_slice() else {
                return Err(Failure::usage("a command is in one VM: name only that one"));
            };
            let status = Sandbox::attach(&home, vm)?.wait_for_process(ProcessId(process))?;
            if self.json {
                print_json(&status)?;
            }
            return Ok(ExitCode::from(status.shell_status()));
        }
        // A signal simply ends us.
        let token = CancelToken::new()?;
        let mut done = Done::new(self.json);
        let status = for_each(attach_all(&home, &self.vms)?, |sandbox| done.when_ended(&sandbox, &token));
        done.finish(status)
    }
}
