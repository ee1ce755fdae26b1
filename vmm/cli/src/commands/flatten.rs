//! `vmm flatten`: fewer layers on a VM's disk.

use std::process::ExitCode;

use clap::Args;
use vmm::DiskSpace;

use super::compact;
use crate::error::Failure;
use crate::table;

#[derive(Args)]
#[command(after_help = "Example:
  vmm stop box && vmm flatten box && vmm start box")]
pub(crate) struct Flatten {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// Take the image's layers in, too: the disk has all that is on it for itself then
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Flatten {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let all = self.all;
        compact::rewrite(&self.vm, self.json, describe, |sandbox, token| {
            if all { sandbox.flatten_all(token) } else { sandbox.flatten(token) }
        })
    }
}

fn describe(space: &DiskSpace) -> String {
    let &DiskSpace { layers_before, layers_after, given_back, kept, .. } = space;
    if layers_before == layers_after {
        return "there is nothing to flatten: no space was given back".to_owned();
    }
    let became = layers_before - layers_after + 1;
    let given_back = if given_back > 0 {
        format!("{} were given back", table::bytes(given_back))
    } else {
        "no space was given back".to_owned()
    };
    let kept = match kept {
        0 => String::new(),
        1 => ": 1 of them is still needed by an image, a snapshot or another VM".to_owned(),
        kept => format!(": {kept} of them are still needed by an image, a snapshot or another VM"),
    };
    format!("{became} layers became one, {given_back}{kept}")
}
