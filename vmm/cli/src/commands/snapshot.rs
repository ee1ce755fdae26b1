//! `vmm snapshot`: states of a VM's disk.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use vmm::{Home, Sandbox, SnapshotInfo};

use super::{print, print_json, print_table, tell_frozen};
use crate::error::Failure;
use crate::{table, values};

#[derive(Args)]
#[command(after_help = "Example:
  vmm snapshot create box before-upgrade
  vmm stop box && vmm snapshot restore box before-upgrade && vmm start box")]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Keep what is on the disk now
    Create(Named),
    /// Go back to a snapshot; what was written since is lost
    Restore(Named),
    /// Forget a snapshot
    Rm(Named),
    /// List the snapshots, the oldest first
    List(List),
}

#[derive(Args)]
struct Named {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    /// How long the guest stood still; none if it does not run.
    frozen_ms: Option<f64>,
}

#[derive(Args)]
struct List {
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Create(named) => named.create()?,
            Action::Restore(named) => {
                attach(&named.vm)?.restore_snapshot(&named.name)?;
                named.tell(None)?;
            }
            Action::Rm(named) => {
                attach(&named.vm)?.remove_snapshot(&named.name)?;
                named.tell(None)?;
            }
            Action::List(list) => list.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    fn create(&self) -> Result<(), Failure> {
        let frozen = attach(&self.vm)?.create_snapshot(&self.name)?;
        self.tell(frozen)
    }

    /// Says that it is done, and how long the guest stood still for it.
    fn tell(&self, frozen: Option<Duration>) -> Result<(), Failure> {
        if self.json {
            return print_json(&Report { name: &self.name, frozen_ms: frozen.map(values::milliseconds) });
        }
        print(&format!("{}\n", self.name))?;
        tell_frozen(&self.vm, frozen);
        Ok(())
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let snapshots = attach(&self.vm)?.snapshots()?;
        if self.json {
            return print_json(&snapshots);
        }
        let row = |snapshot: SnapshotInfo| {
            vec![snapshot.name, table::age(snapshot.created.elapsed()), table::bytes(snapshot.disk_size)]
        };
        let rows: Vec<_> = snapshots.into_iter().map(row).collect();
        print_table(&["SNAPSHOT", "CREATED", "DISK"], &rows)
    }
}

fn attach(vm: &str) -> Result<Sandbox, Failure> {
    let home = Home::open_default().map_err(vmm::Error::from)?;
    Ok(Sandbox::attach(&home, vm)?)
}
