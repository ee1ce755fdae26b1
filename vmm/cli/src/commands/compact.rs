//! `vmm compact`: a VM's disk without what its guest has given up.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, DiskSpace, Home, Sandbox};

use super::{print, print_json, run};
use crate::error::Failure;
use crate::signals::SignalForwarder;
use crate::table;

#[derive(Args)]
#[command(after_help = "Example:
  vmm stop box && vmm compact box && vmm start box")]
pub(crate) struct Compact {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Compact {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let describe = |space: &DiskSpace| {
            let (before, after) = (table::bytes(space.before), table::bytes(space.after));
            format!("{before} before, {after} now")
        };
        rewrite(&self.vm, self.json, describe, |sandbox, token| sandbox.compact_disk(token))
    }
}

/// Does something to the space of a VM's disk, and says what came of it.
pub(super) fn rewrite(
    vm: &str,
    json: bool,
    describe: impl Fn(&DiskSpace) -> String,
    act: impl FnOnce(&Sandbox, &CancelToken) -> Result<DiskSpace, vmm::Error>,
) -> Result<ExitCode, Failure> {
    let home = Home::open_default().map_err(vmm::Error::from)?;
    let sandbox = Sandbox::attach(&home, vm)?;
    let token = CancelToken::new()?;
    let signals = SignalForwarder::install(&token)?;
    let space = match act(&sandbox, &token) {
        Err(vmm::Error::Cancelled) => return Ok(run::cancelled(&signals)),
        space => space?,
    };
    if json {
        print_json(&space)?;
    } else {
        print(&format!("{}\n", describe(&space)))?;
    }
    Ok(ExitCode::SUCCESS)
}
