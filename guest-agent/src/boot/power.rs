//! The end of the machine: nothing is lost that was written, whatever holds it.

use std::fs;
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};
use vmm_protocol::ShutdownMode;

use crate::console;
use crate::server::Place;

/// As process 1 we are told of Ctrl-Alt-Del instead of the machine being reset at once.
pub(super) fn take_ctrl_alt_del(place: Place) {
    if place == Place::Init {
        let _ = reboot(RebootCommand::CadOff);
    }
}

/// Brings what was written to the disks, unmounts them, and switches the machine off or starts it again.
pub(super) fn down(mode: ShutdownMode) -> ! {
    rustix::fs::sync();
    unmount_all();
    rustix::fs::sync();
    off(mode)
}

/// Switches the machine off at once, or starts it again.
pub(super) fn off(mode: ShutdownMode) -> ! {
    let command = match mode {
        ShutdownMode::PowerOff => RebootCommand::PowerOff,
        ShutdownMode::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        console::line(&format!("cannot switch the machine off: {error}"));
    }
    // The kernel has no way to switch this machine off, or we are not process 1 and were not allowed to.
    loop {
        std::thread::park();
    }
}

/// Unmounts file systems with disks behind them, the last one first; what is in use becomes read-only, as the root.
fn unmount_all() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let disks = mounts.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, target) = (fields.next()?, fields.next()?);
        let with_disk = device.starts_with('/') || device.contains(':') || device == "overlay";
        with_disk.then_some(target)
    });
    for target in disks {
        let target = unescaped(target);
        if target == Path::new("/") || unmount(&target, UnmountFlags::empty()).is_err() {
            let _ = mount_remount(&target, MountFlags::RDONLY, c"");
        }
    }
}

fn unescaped(field: &str) -> std::path::PathBuf {
    crate::health::unescape(field).into()
}
