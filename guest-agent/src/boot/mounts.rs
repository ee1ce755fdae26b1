//! The file systems that every Linux program expects.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, mount};
use vmm_protocol::Init;

use crate::console;

/// A file system of the kernel's own.
struct SystemMount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    data: &'static CStr,
}

const NO_SET_USER: MountFlags = MountFlags::NOSUID;
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const ONLY_DATA: MountFlags = NO_DEVICES.union(MountFlags::NOEXEC);

const SYSTEM: &[SystemMount] = &[
    SystemMount { kind: "proc", target: "/proc", flags: ONLY_DATA, data: c"" },
    SystemMount { kind: "sysfs", target: "/sys", flags: ONLY_DATA, data: c"" },
    SystemMount {
        kind: "devpts",
        target: "/dev/pts",
        flags: NO_SET_USER.union(MountFlags::NOEXEC),
        // Group 5 is `tty` everywhere: its members may write to terminals.
        data: c"gid=5,mode=620,ptmxmode=666",
    },
    SystemMount { kind: "tmpfs", target: "/dev/shm", flags: NO_DEVICES, data: c"mode=1777" },
    SystemMount { kind: "tmpfs", target: "/run", flags: NO_DEVICES, data: c"mode=755" },
    SystemMount { kind: "cgroup2", target: "/sys/fs/cgroup", flags: ONLY_DATA, data: c"" },
];

/// What an image's own init mounts as its administrator wishes.
const TEMPORARY: SystemMount =
    SystemMount { kind: "tmpfs", target: "/tmp", flags: NO_DEVICES, data: c"mode=1777" };

/// Links in `/dev` that the kernel does not make itself.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts the kernel's devices in the initial file system. A kernel may have done so itself.
pub(super) fn devices() -> io::Result<()> {
    fs::create_dir_all("/dev")?;
    match mount("devtmpfs", "/dev", "devtmpfs", NO_SET_USER, c"mode=755") {
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Mounts everything else in the root. What cannot be mounted costs a line on the console: the guest may be built
/// without it.
pub(super) fn system(init: Init) {
    let temporary = (init == Init::Agent).then_some(&TEMPORARY);
    for SystemMount { kind, target, flags, data } in SYSTEM.iter().chain(temporary) {
        if let Err(error) = mount_on(kind, Path::new(target), *flags, data) {
            console::line(&format!("cannot mount {target}: {error}"));
        }
    }
    for (target, link) in DEVICE_LINKS {
        // They may be there already.
        let _ = symlink(target, link);
    }
}

fn mount_on(kind: &str, target: &Path, flags: MountFlags, data: &CStr) -> io::Result<()> {
    match mount(kind, target, kind, flags, data) {
        Err(rustix::io::Errno::NOENT) => {
            fs::create_dir_all(target)?;
            Ok(mount(kind, target, kind, flags, data)?)
        }
        result => Ok(result?),
    }
}
