//! `vmm prune`: remove what is not needed any more.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::image::Removed;
use vmm::project::vms_of_projects;
use vmm::{Home, PrunedVm, prune_images, prune_vms, stopped_vms};

use super::project::ask;
use super::{print, print_json};
use crate::error::Failure;
use crate::sanitise::say;
use crate::table;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm prune --dry-run        only say what would be removed
  vmm prune --force          without a question
  vmm images prune           the same without VMs")]
pub(crate) struct Prune {
    /// Do it without a question
    #[arg(long, short)]
    force: bool,
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was removed, or would be.
#[derive(Serialize)]
struct Pruned {
    dry_run: bool,
    vms: Vec<PrunedVm>,
    removed: Vec<Removed>,
    bytes: u64,
}

impl Prune {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let of_projects = vms_of_projects(&home)?;
        let mut vms = stopped_vms(&home)?;
        vms.retain(|vm| vm.name.as_ref().is_none_or(|name| !of_projects.contains_key(name.as_str())));
        if !self.dry_run && !self.force && !vms.is_empty() {
            agree(&vms)?;
        }
        // Layers that only these VMs need go with them, and are no part of what a dry run finds unneeded.
        let vms = if self.dry_run { vms } else { prune_vms(&home, vms)? };
        let removed = prune_images(&home, self.dry_run)?;
        let bytes = vms.iter().map(|vm| vm.bytes).chain(removed.iter().map(|removed| removed.bytes)).sum();
        let pruned = Pruned { dry_run: self.dry_run, vms, removed, bytes };
        if self.json {
            print_json(&pruned)?;
        } else {
            print(&pruned.describe())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Gets a person's word for the disks that are lost.
fn agree(vms: &[PrunedVm]) -> Result<(), Failure> {
    say("These VMs do not run, and are removed with their disks:");
    vms.iter().for_each(|vm| say(&format!("  {}", line(vm))));
    match ask("Remove them?")? {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::usage("nothing was removed")),
        None => {
            let names: Vec<String> = vms.iter().map(name).collect();
            let message = format!("this would remove {} with all disks", names.join(", "));
            Err(Failure::usage(message).with_hint("if that is meant: vmm prune --force"))
        }
    }
}

fn name(vm: &PrunedVm) -> String {
    vm.name.as_ref().map_or_else(|| vm.id.to_string(), ToString::to_string)
}

fn line(vm: &PrunedVm) -> String {
    format!("{} ({}, {})", name(vm), vm.state, table::bytes(vm.bytes))
}

impl Pruned {
    fn describe(&self) -> String {
        let vms = self.vms.iter().map(|vm| format!("VM {}\n", line(vm)));
        let others = self.removed.iter().map(|Removed { what, path, bytes }| {
            format!("{what} {} ({})\n", path.display(), table::bytes(*bytes))
        });
        let verb = if self.dry_run { "would free" } else { "freed" };
        let sum = format!("{verb} {}\n", table::bytes(self.bytes));
        vms.chain(others).chain([sum]).collect()
    }
}
