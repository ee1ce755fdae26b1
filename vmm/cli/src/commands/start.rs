//! `vmm start`: a VM that was created before.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, DiskSize, ExtraDisk, Home, Sandbox, StartOptions, VmState};

use super::{Done, attach_all, for_each, run};
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
    /// Then wait until they have ended; those that run already are only waited for
    #[arg(long, short)]
    wait: bool,
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
        if self.wait {
            return self.start_and_wait(&home, quiet);
        }
        let mut done = Done::new(self.json);
        let status = self.start(&home, &self.vms, quiet, &mut done)?;
        done.finish(status)
    }

    fn start(&self, home: &Home, vms: &[String], quiet: bool, done: &mut Done) -> Result<ExitCode, Failure> {
        start_each(home, vms, !self.no_seccomp, quiet, done, |vm| {
            if let Some(size) = self.disk_size {
                Sandbox::attach(home, vm)?.resize_disk(size)?;
            }
            for disk in &self.disks {
                Sandbox::attach(home, vm)?.add_disk(disk)?;
            }
            Ok(())
        })
    }

    /// Starts those that do not run, and follows all of them to their ends. A signal leaves them running.
    fn start_and_wait(&self, home: &Home, quiet: bool) -> Result<ExitCode, Failure> {
        let mut stopped = Vec::new();
        for vm in &self.vms {
            let sandbox = Sandbox::attach(home, vm)?;
            match sandbox.info()?.state {
                VmState::Stopping => {
                    sandbox.wait(None)?;
                    stopped.push(vm.clone());
                }
                state if state.is_live() => {}
                _ => stopped.push(vm.clone()),
            }
        }
        // They are told when they have ended.
        let started = self.start(home, &stopped, quiet, &mut Done::new(true))?;
        if started != ExitCode::SUCCESS {
            return Ok(started);
        }
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mut done = Done::new(self.json);
        let status = for_each(attach_all(home, &self.vms)?, |sandbox| done.when_ended(&sandbox, &token));
        done.finish(if token.is_cancelled() { run::cancelled(&signals) } else { status })
    }
}

/// Starts VMs, one after the other, each when what comes before it is done.
pub(super) fn start_each(
    home: &Home,
    vms: &[String],
    seccomp: bool,
    quiet: bool,
    done: &mut Done,
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
    Ok(if token.is_cancelled() { run::cancelled(&signals) } else { status })
}
