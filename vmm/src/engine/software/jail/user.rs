//! Who QEMU runs as: in a user namespace a nobody; outside of it the user of the monitor, or nobody for root.

use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// The user who owns nothing.
const NOBODY: u32 = 65534;

/// The number that the one user has within the namespace. Not 0, which would get capabilities back on exec.
const INSIDE: u32 = 1000;

/// `/proc` of the host, for the time when it is out of sight.
pub(super) fn open_process_files() -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).ok()
}

/// Stops being root: no file of root's can be touched from here on.
pub(super) fn become_nobody() -> Result<(), String> {
    let cannot = |errno: Errno| format!("root cannot become another user here: {errno}");
    setgroups(&[]).map_err(cannot)?;
    let group = Gid::from_raw(NOBODY);
    setresgid(group, group, group).map_err(cannot)?;
    let user = Uid::from_raw(NOBODY);
    setresuid(user, user, user).map_err(cannot)?;
    // A change of user makes a process undumpable, and its files in /proc root's; the map must be written there.
    // QEMU's exec would make it dumpable again anyway.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|errno| errno.to_string())
}

/// Enters a user namespace that knows one user, the one that this process has (user_namespaces(7)).
pub(super) fn enter_namespace(processes: &Option<OwnedFd>) -> Result<(), String> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let Some(processes) = processes else { return Err("there is no /proc".to_owned()) };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(why_not)?;
    let write = |name: &str, text: &str| -> Result<(), String> {
        let file = openat(processes, format!("self/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let file = file.map_err(|errno| format!("cannot open {name}: {errno}"))?;
        let written = std::fs::File::from(file).write_all(text.as_bytes());
        written.map_err(|error| format!("cannot write {name}: {error}"))
    };
    // A group map by one who could not otherwise drop groups is refused until they can never be dropped.
    write("setgroups", "deny")?;
    write("gid_map", &format!("{INSIDE} {group} 1"))?;
    write("uid_map", &format!("{INSIDE} {user} 1"))
}

fn why_not(errno: Errno) -> String {
    let disabled = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    if disabled("/proc/sys/kernel/unprivileged_userns_clone") {
        return "the host forbids user namespaces to users (sysctl kernel.unprivileged_userns_clone=1 allows them)"
            .to_owned();
    }
    if disabled("/proc/sys/user/max_user_namespaces") {
        return "the host allows no user namespaces (sysctl user.max_user_namespaces)".to_owned();
    }
    format!("the kernel refuses a user namespace: {errno}, as in a container")
}

/// Why a namespace that has been entered gives no rights.
pub(super) fn why_not_within(errno: Errno) -> String {
    let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if restricted.is_ok_and(|text| text.trim() == "1") {
        return "AppArmor takes the rights from users' namespaces \
            (sysctl kernel.apparmor_restrict_unprivileged_userns=0 gives them back)"
            .to_owned();
    }
    super::refused(errno)
}
