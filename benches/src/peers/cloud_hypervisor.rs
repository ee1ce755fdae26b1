//! Cloud Hypervisor, by its documentation (`docs/`): our kernel and root, the same small initramfs.

use std::process::Command;

use super::console::{Console, OwnDisk, WITH_A_COPY, look_for_monitor};
use super::{Booted, Context, Peer, Run};
use crate::bounded::{Limit, Running};
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
        WITH_A_COPY
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        look_for_monitor(context, self.name(), GET)
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        Self::start(context, memory)?.once(limit)
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        Self::start(context, memory)?.ready(limit)
    }
}
