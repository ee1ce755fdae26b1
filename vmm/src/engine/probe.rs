//! What each engine can do on this host, why not, and what to do about it: the facts behind `vmm doctor`.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{EngineKind, EngineOptions};
use crate::arch::Arch;

/// One bar of the jail in which a program runs the guest's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    /// Its user has no rights outside: a user namespace.
    UserNamespace,
    /// It sees an empty file system with only its own program and libraries, read-only.
    FileSystem,
    /// It sees no process but itself.
    ProcessNamespace,
    /// It has no network.
    NetworkNamespace,
    /// It shares no System V objects, host name or control groups.
    IpcNamespace,
    /// It runs as a user who owns nothing (asked for only when vmm runs as root).
    UnprivilegedUser,
    /// It can gain no rights by executing a program.
    NoNewPrivileges,
    /// It has no capabilities.
    NoCapabilities,
    /// The system calls that it does not need are refused.
    SystemCallFilter,
    /// It refuses them by a filter of its own, too (QEMU's `-sandbox`).
    OwnFilter,
    /// No core dumps, few open files.
    Limits,
    /// It dies with its supervisor, and the supervisor with the monitor.
    DiesWithMonitor,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespace => "user namespace",
            Self::FileSystem => "file system of its own",
            Self::ProcessNamespace => "process namespace",
            Self::NetworkNamespace => "network namespace",
            Self::IpcNamespace => "IPC namespace",
            Self::UnprivilegedUser => "unprivileged user",
            Self::NoNewPrivileges => "no new privileges",
            Self::NoCapabilities => "no capabilities",
            Self::SystemCallFilter => "system call filter",
            Self::OwnFilter => "QEMU's own system call filter",
            Self::Limits => "limits",
            Self::DiesWithMonitor => "dies with the monitor",
        })
    }
}

/// Whether one bar holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarState {
    /// Which bar.
    pub bar: Bar,
    /// Why it does not hold; nothing when it does.
    pub missing: Option<String>,
}

/// Which bars of the jail hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailReport {
    /// Each bar that was tried, in the order of trying.
    pub bars: Vec<BarState>,
}

impl JailReport {
    /// Whether a bar was tried and holds.
    pub fn holds(&self, bar: Bar) -> bool {
        self.bars.iter().any(|state| state.bar == bar && state.missing.is_none())
    }

    /// The bars that do not hold.
    pub fn missing(&self) -> impl Iterator<Item = &BarState> {
        self.bars.iter().filter(|state| state.missing.is_some())
    }
}

/// What is known of the host's hardware virtualization without trying it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtualization {
    /// `/dev/kvm` is there. It proves nothing by itself.
    pub kvm_device: bool,
    /// The processor's extension (`vmx` or `svm`), where it shows one.
    pub processor_extension: Option<String>,
    /// We run in a virtual machine ourselves.
    pub nested: bool,
    /// All of it in a sentence.
    pub summary: String,
}

/// What one engine can do here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineProbe {
    /// The engine.
    pub kind: EngineKind,
    /// A machine can be started with it.
    pub usable: bool,
    /// Why, or why not, in a sentence.
    pub reason: String,
    /// What to do to make it usable or better: commands or sentences.
    pub advice: Vec<String>,
    /// Guests can run virtual machines themselves (`--nested`).
    pub nesting: bool,
    /// How much slower than the processor itself a guest computes, roughly; 1 is as quick.
    pub slowdown: Option<u32>,
    /// The program it uses (QEMU).
    pub program: Option<PathBuf>,
    /// That program's version.
    pub version: Option<String>,
    /// The jail around it, as it was really built for a trial.
    pub jail: Option<JailReport>,
    /// How the guest's clock is set up, in a sentence.
    pub clock: Option<String>,
}

/// What this host offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProbe {
    /// The hardware's part.
    pub virtualization: Virtualization,
    /// Why the threads of a VM's monitor cannot be held to the system calls that they need; nothing where they can. A
    /// VM starts without only where it is told to.
    pub seccomp_missing: Option<String>,
    /// Each engine, the one that `auto` would take first.
    pub engines: Vec<EngineProbe>,
}

/// Finds out what this host offers, by trying: the software engine's jail is really built.
pub fn probe(arch: Arch, options: &EngineOptions) -> HostProbe {
    HostProbe {
        virtualization: virtualization(),
        seccomp_missing: crate::threads::check().err().map(|error| error.to_string()),
        engines: vec![super::native::probe(options), super::software::probe(arch, options)],
    }
}

fn virtualization() -> Virtualization {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = std::path::Path::new("/dev/kvm").exists();
    describe_virtualization(&cpuinfo, device)
}

/// The extension for virtualization that `/proc/cpuinfo` shows.
pub(super) fn processor_extension(cpuinfo: &str) -> Option<&'static str> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    ["vmx", "svm"].into_iter().find(|name| flags.split_whitespace().any(|flag| flag == *name))
}

/// What `/proc/cpuinfo` says. Its flags differ between architectures; Arm's says nothing of virtualization.
fn describe_virtualization(cpuinfo: &str, kvm_device: bool) -> Virtualization {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    let extension = processor_extension(cpuinfo);
    let nested = has("hypervisor");
    let mut summary = match (kvm_device, extension) {
        (true, Some(name)) => format!("/dev/kvm is there and the processor has {name}"),
        (true, None) if !flags.is_empty() => {
            "/dev/kvm is there, but the processor shows neither vmx nor svm: it cannot work".to_owned()
        }
        (true, None) => "/dev/kvm is there".to_owned(),
        (false, Some(name)) => format!("the processor has {name}, but there is no /dev/kvm"),
        (false, None) => "none: no /dev/kvm, and the processor shows neither vmx nor svm".to_owned(),
    };
    if nested {
        summary.push_str(" (this is itself a virtual machine)");
    }
    Virtualization { kvm_device, processor_extension: extension.map(str::to_owned), nested, summary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_device_without_the_processors_extension_is_named_as_such() {
        let virtualization = describe_virtualization("flags\t\t: fpu hypervisor avx\n", true);
        assert!(virtualization.nested);
        assert_eq!(virtualization.processor_extension, None);
        assert!(virtualization.summary.contains("neither vmx nor svm"), "{}", virtualization.summary);
        let metal = describe_virtualization("flags : fpu svm\n", true);
        assert_eq!(metal.summary, "/dev/kvm is there and the processor has svm");
    }
}
