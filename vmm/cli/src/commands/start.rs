//! `vmm start`: a VM that was created before.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, DiskSize, ExtraDisk, Home, Sandbox, StartOptions};

use super::{Done, for_each, run};
use crate::error::Failure;
use crate::progress;
use crate::signals::SignalForwarder;

#[derive(Args)]
pub(crate) struct Start {
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    /// Make their disks this large before; the file systems on them grow with them
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<DiskSize>,
    /// Give them a disk file of yours from now on, as `vmm run --disk` does: FILE[,ro][,format=raw|qcow2]
    #[arg(long = "disk", value_name = "FILE", value_parser = ExtraDisk::parse)]
    disks: Vec<ExtraDisk>,
    /// For debugging: do not hold the VM's monitor to the system calls that it needs
    #[arg(long)]
    no_seccomp: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Start {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        start_each(&home, &self.vms, !self.no_seccomp, quiet, Done::new(self.json), |vm| {
            if let Some(size) = self.disk_size {
                Sandbox::attach(&home, vm)?.resize_disk(size)?;
            }
            for disk in &self.disks {
                Sandbox::attach(&home, vm)?.add_disk(disk)?;
            }
            Ok(())
        })
    }
}

/// Starts VMs, one after the other, each when what comes before it is done.
pub(super) fn start_each(
    home: &Home,
    vms: &[String],
    seccomp: bool,
    quiet: bool,
    mut done: Done,
    mut before: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let token = CancelToken::new()?;
    let signals = SignalForwarder::install(&token)?;
    let status = for_each(vms, |vm| {
        if token.is_cancelled() {
            return Ok(());
        }
        before(vm)?;
        let (observer, display) = progress::display(quiet);
        let options = StartOptions::default()
            .executable(std::env::current_exe()?)
            .detached(true)
            .seccomp(seccomp)
            .cancel_token(&token)
            .progress(observer);
        let started = Sandbox::start(home, vm, options);
        display.clear();
        match started {
            Err(vmm::Error::Cancelled) => Ok(()),
            started => done.vm(&started?),
        }
    });
    done.finish(if token.is_cancelled() { run::cancelled(&signals) } else { status })
}
