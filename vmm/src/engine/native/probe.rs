//! Whether the native engine can run guests on this host, why not, and what to do about it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::NativeEngine;
use super::trial::{self, Verdict};
use crate::arch::Arch;
use crate::engine::probe::processor_extension;
use crate::engine::{EngineKind, EngineOptions, EngineProbe, cache};

/// The host's virtualization device.
const DEVICE: &str = "/dev/kvm";

/// Why KVM cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Problem {
    /// There is no device.
    Missing {
        /// The processor has the extension, so something can be done.
        extension: Option<&'static str>,
    },
    /// We may not open it.
    NotPermitted {
        /// The group whose members may.
        group: Option<String>,
    },
    /// Another hypervisor has the processor.
    Busy,
    /// It opens, and is not what is needed.
    Unfit(String),
    /// It does not run guests as hardware does.
    NoHardware(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { extension: Some(name) } => {
                write!(f, "there is no {DEVICE}, though the processor has {name}")
            }
            Self::Missing { extension: None } => {
                write!(f, "there is no {DEVICE}, and the processor shows neither vmx nor svm")
            }
            Self::NotPermitted { .. } => write!(f, "{DEVICE} is there, but you may not open it"),
            Self::Busy => write!(f, "{DEVICE} is busy: another hypervisor has the processor"),
            Self::Unfit(why) => f.write_str(why),
            Self::NoHardware(why) => {
                write!(f, "{DEVICE} is there, but has no hardware virtualization below it: {why}")
            }
        }
    }
}

impl Problem {
    /// What to do about it.
    pub(in crate::engine) fn advice(&self) -> String {
        match self {
            Self::Missing { extension: Some("svm") } => "sudo modprobe kvm_amd".to_owned(),
            Self::Missing { extension: Some(_) } => "sudo modprobe kvm_intel".to_owned(),
            Self::Missing { extension: None } => {
                "switch virtualization on in the firmware; in a virtual machine, nested virtualization"
                    .to_owned()
            }
            Self::NotPermitted { group: Some(group) } => {
                format!("sudo usermod -aG {group} $USER, then log in again")
            }
            Self::NotPermitted { group: None } => format!("let your user open {DEVICE}"),
            Self::Busy => "end the other hypervisor (VirtualBox, VMware) or unload its module".to_owned(),
            Self::Unfit(_) => "update the host's kernel".to_owned(),
            Self::NoHardware(_) => {
                "use a host with hardware virtualization, or nested virtualization in its virtual machine"
                    .to_owned()
            }
        }
    }
}

/// Whether KVM can be used. Cheap when it was tried since the host was booted.
pub(in crate::engine) fn find_problem(options: &EngineOptions) -> Option<Problem> {
    if let Err(error) = File::options().read(true).write(true).open(DEVICE) {
        return Some(not_opened(&error));
    }
    let memory = Memory::of(options.cache.as_deref());
    let verdict = memory.as_ref().and_then(Memory::recall).unwrap_or_else(|| {
        let verdict = trial::run(&options.supervisor)
            .unwrap_or_else(|error| Verdict::Fails { reason: format!("it cannot be tried: {error}") });
        if let Some(memory) = memory.as_ref().filter(|_| verdict != Verdict::Late) {
            memory.remember(&verdict);
        }
        verdict
    });
    match verdict {
        Verdict::Works => None,
        Verdict::Unfit { reason } => Some(Problem::Unfit(reason)),
        Verdict::Fails { reason } => Some(Problem::NoHardware(reason)),
        Verdict::Slow => Some(Problem::NoHardware("it interprets a guest's instructions".to_owned())),
        Verdict::Late => Some(Problem::NoHardware("a guest of a few instructions did not end".to_owned())),
    }
}

fn not_opened(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => missing(),
        io::ErrorKind::PermissionDenied => Problem::NotPermitted { group: group() },
        io::ErrorKind::ResourceBusy => Problem::Busy,
        // A device node without a driver behind it.
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => missing(),
        _ => Problem::Unfit(format!("cannot open {DEVICE}: {error}")),
    }
}

fn missing() -> Problem {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Problem::Missing { extension: processor_extension(&cpuinfo) }
}

/// The name of the group that the device belongs to.
fn group() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let number = fs::metadata(DEVICE).ok()?.gid();
    let groups = fs::read_to_string("/etc/group").ok()?;
    group_name(&groups, number).map(str::to_owned)
}

fn group_name(groups: &str, number: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then_some(name)
    })
}

/// What was found out since the host was booted.
struct Memory {
    file: PathBuf,
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    boot: String,
    verdict: Verdict,
}

impl Memory {
    fn of(folder: Option<&Path>) -> Option<Self> {
        Some(Self { file: folder?.join("virtualization.json"), boot: cache::boot_id()? })
    }

    fn recall(&self) -> Option<Verdict> {
        let remembered: Remembered = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (remembered.boot == self.boot).then_some(remembered.verdict)
    }

    /// A folder that cannot be written only means that it is tried again.
    fn remember(&self, verdict: &Verdict) {
        let remembered = Remembered { boot: self.boot.clone(), verdict: verdict.clone() };
        let text = serde_json::to_vec(&remembered).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| cache::write(&self.file, text)) {
            tracing::debug!(%error, "cannot remember what was learned of the host's virtualization");
        }
    }
}

/// Why KVM cannot be used, for a person who did not ask: once since the host was booted, and `None` from then on.
pub(in crate::engine) fn tell_once(options: &EngineOptions) -> Option<Problem> {
    let folder = options.cache.as_deref()?;
    let boot = cache::boot_id()?;
    let told = folder.join("told-of-virtualization");
    if fs::read_to_string(&told).is_ok_and(|before| before == boot) {
        return None;
    }
    let problem = find_problem(options)?;
    // Where it cannot be remembered it is told again.
    let _ = cache::write(&told, boot);
    Some(problem)
}

/// What lets guests run virtual machines themselves.
pub(super) const NESTING_ADVICE: &str =
    "load the module kvm_amd or kvm_intel with nested=1 (in a virtual machine: of its host)";

/// What KVM can do on this host.
pub(in crate::engine) fn probe(options: &EngineOptions) -> EngineProbe {
    let problem = find_problem(options);
    let nesting = problem.is_none() && NativeEngine::kvm(Arch::X86_64).is_ok_and(|engine| engine.can_nest());
    let no_nesting = (problem.is_none() && !nesting).then(|| format!("for `--nested`, {NESTING_ADVICE}"));
    EngineProbe {
        kind: EngineKind::Kvm,
        usable: problem.is_none(),
        reason: problem
            .as_ref()
            .map_or_else(|| "guests run on the processor, kept apart by it".to_owned(), Problem::to_string),
        advice: problem.iter().map(Problem::advice).chain(no_nesting).collect(),
        nesting,
        slowdown: problem.is_none().then_some(1),
        program: None,
        version: None,
        jail: None,
        clock: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_not_to_open_the_device_is_named_with_what_to_do() {
        let problem = |code| not_opened(&io::Error::from_raw_os_error(code));
        assert!(matches!(problem(libc::ENOENT), Problem::Missing { .. }));
        assert!(matches!(problem(libc::ENODEV), Problem::Missing { .. }));
        assert!(matches!(problem(libc::EACCES), Problem::NotPermitted { .. }));
        assert_eq!(problem(libc::EBUSY), Problem::Busy);
        assert!(matches!(problem(libc::EIO), Problem::Unfit(_)));
        let denied = Problem::NotPermitted { group: Some("kvm".to_owned()) };
        assert_eq!(denied.advice(), "sudo usermod -aG kvm $USER, then log in again");
    }

    #[test]
    fn a_group_is_found_by_its_number() {
        let groups = "root:x:0:\nbad line\nkvm:x:107:me\n";
        assert_eq!(group_name(groups, 107), Some("kvm"));
        assert_eq!(group_name(groups, 7), None);
    }

    #[test]
    fn a_verdict_is_remembered_until_the_next_boot() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::of(Some(&folder.path().join("cache"))).unwrap();
        assert_eq!(memory.recall(), None);
        memory.remember(&Verdict::Slow);
        assert_eq!(memory.recall(), Some(Verdict::Slow));
        let later = Memory { boot: "another".to_owned(), ..memory };
        assert_eq!(later.recall(), None);
        later.remember(&Verdict::Works);
        assert_eq!(later.recall(), Some(Verdict::Works));
    }
}
