//! Firecracker, by its documentation (`docs/getting-started.md`): our kernel and root, the same small initramfs.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::console::{Console, OwnDisk, WITH_A_COPY, look_for_monitor};
use super::{Booted, Context, Peer, Run};
use crate::bounded::{Limit, Running};
use crate::report::Absent;
use crate::trouble::Trouble;

const GET: &str =
    "take a release from github.com/firecracker-microvm/firecracker, then --peer firecracker=PATH";

pub(crate) struct Firecracker;

impl Firecracker {
    fn start(context: &Context, memory: u64) -> Result<Console, Trouble> {
        let files = context.guest_files()?;
        let program = context.program("firecracker", &["firecracker"]);
        let program = program.ok_or_else(|| Trouble::Failed("there is no firecracker".to_owned()))?;
        // It has no overlays: the copy is made before its time begins.
        let disk = OwnDisk::copy(context)?;
        let configuration = json!({
            "boot-source": {
                "kernel_image_path": files.kernel,
                "initrd_path": files.initramfs,
                "boot_args": "console=ttyS0 quiet reboot=k panic=-1 pci=off",
            },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": memory },
            "drives": [
                { "drive_id": "root", "path_on_host": disk.0, "is_root_device": false, "is_read_only": false },
            ],
        });
        let file = disk.0.with_extension("json");
        fs::write(&file, configuration.to_string())?;
        let mut firecracker = Command::new(program);
        firecracker.args(["--no-api", "--config-file"]).arg(file);
        let running = Running::start(firecracker, "Firecracker")?;
        Ok(Console { running, shutdown: "sync; reboot -f", _disk: Some(disk) })
    }
}

impl Peer for Firecracker {
    fn name(&self) -> &'static str {
        "firecracker"
    }

    fn title(&self) -> &'static str {
        "Firecracker"
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
