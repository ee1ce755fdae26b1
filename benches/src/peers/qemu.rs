//! QEMU's microvm by itself: our kernel and root, a small initramfs, and QEMU's own virtio-blk.

use std::process::Command;

use super::console::{Console, OwnDisk};
use super::{Booted, Context, Peer, Run, absent};
use crate::bounded::{Limit, Running};
use crate::host;
use crate::report::Absent;
use crate::trouble::Trouble;

const GET: &str = "apt-get install qemu-system-x86 qemu-utils";

pub(crate) struct Qemu;

impl Qemu {
    fn start(context: &Context, memory: u64) -> Result<Console, Trouble> {
        let files = context.guest_files()?;
        let program = context.program("qemu-microvm", &["qemu-system-x86_64"]);
        let mut qemu =
            Command::new(program.ok_or_else(|| Trouble::Failed(format!("there is no QEMU: {GET}")))?);
        let accelerator = if context.hardware { ["kvm", "host"] } else { ["tcg", "max"] };
        qemu.args(["-M", "microvm,acpi=off", "-accel", accelerator[0], "-cpu", accelerator[1], "-smp", "1"]);
        qemu.args(["-m", &format!("{memory}M"), "-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-serial", "stdio", "-no-reboot"]);
        qemu.arg("-kernel").arg(&files.kernel).arg("-initrd").arg(&files.initramfs);
        // Without the last word a kernel on a busy host takes a late timer for a broken one, and panics.
        qemu.args(["-append", "console=ttyS0 quiet reboot=t panic=-1 no_timer_check"]);
        // What it writes goes to an overlay of its own, as with us.
        let disk = OwnDisk::overlay(context)?;
        qemu.args(["-drive", &format!("if=none,id=root,format=qcow2,file={}", disk.0.display())]);
        qemu.args(["-device", "virtio-blk-device,drive=root"]);
        let running = Running::start(qemu, "QEMU")?;
        Ok(Console { running, shutdown: "sync; reboot -f", _disk: Some(disk) })
    }
}

impl Peer for Qemu {
    fn name(&self) -> &'static str {
        "qemu-microvm"
    }

    fn title(&self) -> &'static str {
        "QEMU microvm"
    }

    fn note(&self) -> &'static str {
        "By itself: our kernel and root, an initramfs with a shell on the serial console, QEMU's own virtio-blk."
    }

    fn look(&self, context: &Context) -> Result<String, Absent> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(absent("a microvm is a machine of x86_64", "run on x86_64"));
        }
        let program = context.program(self.name(), &["qemu-system-x86_64"]);
        let program = program.ok_or_else(|| absent("there is no qemu-system-x86_64", GET))?;
        let said = host::said(&program.to_string_lossy(), &["--version"]);
        let said = said.ok_or_else(|| absent(format!("{} does not run", program.display()), GET))?;
        match &context.guest_files {
            Ok(_) => Ok(said),
            Err(why) => Err(absent(why.clone(), GET)),
        }
    }

    fn run_once(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        Self::start(context, memory)?.once(limit)
    }

    fn boot(&self, context: &Context, memory: u64, limit: &Limit) -> Result<Booted, Trouble> {
        Self::start(context, memory)?.ready(limit)
    }
}
