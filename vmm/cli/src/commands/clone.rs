//! `vmm clone`: a VM from another one.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::{Cloned, Home, Sandbox, VmId};

use super::{print, print_json, tell_frozen};
use crate::error::Failure;
use crate::values;

#[derive(Args)]
#[command(after_help = "Example:
  vmm clone box copy && vmm start copy")]
pub(crate) struct Clone {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// What to call the new one
    #[arg(value_name = "NEW")]
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    id: &'a VmId,
    /// How long the guest stood still; none if it does not run.
    frozen_ms: Option<f64>,
}

impl Clone {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let Cloned { sandbox, frozen } = Sandbox::attach(&home, &self.vm)?.clone_to(&self.name)?;
        if self.json {
            let frozen_ms = frozen.map(values::milliseconds);
            print_json(&Report { name: sandbox.name(), id: sandbox.id(), frozen_ms })?;
        } else {
            print(&format!("{}\n", sandbox.name()))?;
            tell_frozen(&self.vm, frozen);
        }
        Ok(ExitCode::SUCCESS)
    }
}
