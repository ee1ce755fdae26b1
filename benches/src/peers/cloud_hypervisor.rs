//! Cloud Hypervisor, by its documentation (`docs/`): our kernel and root, the same small initramfs.

use std::process::Command;

use super::console::{Console, OwnDisk};
use super::{Booted, Context, Peer, Run, absent, needs_hardware};
use crate::bounded::{Limit, Running};
use crate::host;
use crate::report::Absent;
use crate::trouble::Trouble;

const GET: &str =
    "take a release from github.com/cloud-hypervisor/cloud-hypervisor, then --peer cloud-hypervisor=PATH";

pub(crate) struct CloudHypervisor;

impl CloudHypervisor {
    fn start(context: &Context, memory: u64) -> Result<Console, Trouble> {
        let files = context.guest_files()?;
        let program = context.program("cloud-hypervisor", &["cloud-hypervisor"]);
        let program = program.ok_or_else(|| Trouble::Failed("there is no cloud-hypervisor".to_owned()))?;
        // The copy is made before its time begins.
        let disk = OwnDisk::copy(context)?;
        let mut command = Command::new(program);
        command.arg("--kernel").arg(&files.kernel).arg("--initramfs").arg(&files.initramfs);
        command.args(["--cmdline", "console=ttyS0 quiet panic=-1", "--cpus", "boot=1"]);
        command.args(["--memory", &format!("size={memory}M"), "--serial", "tty", "--console", "off"]);
        command.args(["--disk", &format!("path={}", disk.0.display())]);
        let running = Running::start(command, "Cloud Hypervisor")?;
        Ok(Console { running, shutdown: "sync; poweroff -f", _disk: Some(disk) })
    }
}

impl Peer for CloudHypervisor {
    fn name(&self) -> &'static str {
        "cloud-hypervisor"
    }

    fn title(&self) -> &'static str {
        "Cloud Hypervisor"
    }

    fn note(&self) -> &'static str {
        "Our kernel and root, an initramfs with a shell on the serial console; its disk is copied before its time begins."
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        let program = context.program(self.name(), &["cloud-hypervisor"]);
        let program = program.ok_or_else(|| absent("there is no cloud-hypervisor", GET))?;
        needs_hardware(context)?;
        let said = host::said(&program.to_string_lossy(), &["--version"]);
        let said = said.ok_or_else(|| absent(format!("{} does not run", program.display()), GET))?;
        context.guest_files.as_ref().map_err(|why| absent(why.clone(), "apt-get install qemu-utils"))?;
        Ok(said)
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        Self::start(context, memory)?.once(limit)
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        Self::start(context, memory)?.ready(limit)
    }
}
