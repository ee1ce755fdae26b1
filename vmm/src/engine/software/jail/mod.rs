//! The jail in which QEMU runs the guest's processors.
//!
//! QEMU's own policy is that TCG is no security boundary, so a guest that takes QEMU over must find nothing there:
//! no files, no network, no other process, no rights. The supervisor puts itself in and then starts QEMU. Each bar is
//! left out only where the host does not allow it, alone, and the report says so.

mod calls;
mod files;
mod user;

use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::plan::Plan;
use crate::engine::{Bar, BarState, JailReport};

pub(super) use calls::refuse_calls;

/// The jail from within, once the supervisor is in it.
pub(super) struct Jail {
    /// What holds.
    pub report: Report,
    /// The path of each file of the plan, as QEMU can open it.
    pub files: Vec<String>,
    /// The folder with the firmware. `None`: QEMU finds its own.
    pub firmware_folder: Option<&'static str>,
}

/// Collects what holds.
#[derive(Default)]
pub(super) struct Report(JailReport);

impl Report {
    /// Notes whether a bar holds, and passes on whether it does.
    pub(super) fn note(&mut self, bar: Bar, result: Result<(), String>) -> bool {
        let missing = result.err();
        let holds = missing.is_none();
        self.0.bars.push(BarState { bar, missing });
        holds
    }

    pub(super) fn finish(self) -> JailReport {
        self.0
    }
}

/// Puts this process into the jail, for good. An error means that it is in no state to go on.
///
/// Not yet in force: what holds only for children (the process namespace) and what would hold up the supervisor (the
/// system call filter, which QEMU's process takes on itself).
pub(super) fn enter(plan: &Plan, descriptors: &[OwnedFd]) -> io::Result<Jail> {
    let mut report = Report::default();
    // Opened now: from within the new file system it cannot be found.
    let processes = user::open_process_files();
    let root = rustix::process::geteuid().is_root();
    let may_divide = has_capability(CapabilitySet::SYS_ADMIN);
    if root && !may_divide {
        report.note(Bar::UnprivilegedUser, user::become_nobody());
    }
    let mut in_user_namespace = false;
    if !may_divide {
        in_user_namespace = report.note(Bar::UserNamespace, user::enter_namespace(&processes));
    }

    let divide = |flags: CloneFlags| match unshare(flags) {
        Ok(()) => Ok(()),
        Err(errno) if may_divide => Err(refused(errno)),
        Err(errno) if in_user_namespace => Err(user::why_not_within(errno)),
        Err(_) => Err("needs a user namespace".to_owned()),
    };
    report.note(Bar::ProcessNamespace, divide(CloneFlags::CLONE_NEWPID));
    report.note(Bar::NetworkNamespace, divide(CloneFlags::CLONE_NEWNET));
    let shared_names = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
    report.note(Bar::IpcNamespace, divide(shared_names));
    let mounts = divide(CloneFlags::CLONE_NEWNS);
    let files = match mounts.and_then(|()| files::Sources::find(plan)) {
        Ok(sources) => files::enter(plan, &sources, descriptors, root)?,
        Err(reason) => Err(reason),
    };
    let (paths, firmware_folder) = match &files {
        Ok(()) => (files::paths(plan), (!plan.firmware.is_empty()).then_some(files::FIRMWARE_FOLDER)),
        Err(_) => (files::descriptor_paths(plan, descriptors, root)?, None),
    };
    report.note(Bar::FileSystem, files);

    if root && may_divide {
        report.note(Bar::UnprivilegedUser, user::become_nobody());
        report.note(Bar::UserNamespace, user::enter_namespace(&processes));
    }
    let no_new_privileges = rustix::thread::set_no_new_privs(true);
    report.note(Bar::NoNewPrivileges, no_new_privileges.map_err(|errno| errno.to_string()));
    report.note(Bar::NoCapabilities, drop_capabilities());
    report.note(Bar::Limits, set_limits());
    if plan.own_filter {
        report.note(Bar::OwnFilter, Ok(()));
    } else {
        report.note(Bar::OwnFilter, Err("this QEMU was built without its -sandbox".to_owned()));
    }
    Ok(Jail { report, files: paths, firmware_folder })
}

fn refused(errno: nix::errno::Errno) -> String {
    format!("the kernel refuses it: {errno}")
}

fn has_capability(capability: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Gives up every capability, and the possibility to gain any by executing a program.
fn drop_capabilities() -> Result<(), String> {
    if has_capability(CapabilitySet::SETPCAP) {
        // The kernel knows up to 64; the first that it does not know ends the list.
        for bit in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL) => break,
                Err(errno) => return Err(format!("cannot shrink the bounding set: {errno}")),
            }
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(|errno| errno.to_string())
}

/// QEMU opens a few files and has its sockets open already; a dump of it would hold the guest's secrets.
const MAX_OPEN_FILES: u64 = 512;

fn set_limits() -> Result<(), String> {
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Nofile, MAX_OPEN_FILES),
        (Resource::Msgqueue, 0),
        (Resource::Memlock, 0),
    ] {
        // A limit that the host set lower already stays.
        let set = rustix::process::getrlimit(resource);
        let limit = set.maximum.map_or(limit, |maximum| maximum.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(|errno| format!("cannot limit {resource:?}: {errno}"))?;
    }
    Ok(())
}
