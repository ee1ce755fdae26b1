//! Which engine serves a machine.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::native::{self, NativeEngine};
use super::software::SoftwareEngine;
use super::{
    Engine, EngineError, EngineKind, HardwareRequiredSnafu, NativeSnafu, NotBuiltSnafu, SoftwareSnafu,
    UnknownEngine,
};
use crate::arch::Arch;
use crate::machine::ConsoleKind;

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EngineChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one and no other.
    Named(EngineKind),
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        if name == "auto" { Ok(Self::Auto) } else { name.parse().map(Self::Named) }
    }
}

impl TryFrom<String> for EngineChoice {
    type Error = UnknownEngine;

    fn try_from(name: String) -> Result<Self, UnknownEngine> {
        name.parse()
    }
}

impl From<EngineChoice> for String {
    fn from(choice: EngineChoice) -> Self {
        choice.to_string()
    }
}

/// What the engines need to know of the program that they run in.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The executable that calls [`supervisor_main`](super::software::supervisor_main) when its first argument is
    /// [`SUPERVISOR_ARGUMENT`](super::software::SUPERVISOR_ARGUMENT): `vmm` itself.
    pub supervisor: PathBuf,
    /// A folder in which to remember what a start would have to find out again (QEMU's version and libraries, the
    /// host's clock rate). It is made when it is missing; one that cannot be written only costs time.
    pub cache: Option<PathBuf>,
    /// The QEMU of the software engine. `None`: what `VMM_QEMU` names, or the one on the path.
    pub qemu: Option<PathBuf>,
}

impl EngineOptions {
    /// With this supervisor, no cache, and the QEMU that is found.
    pub fn new(supervisor: impl Into<PathBuf>) -> Self {
        Self { supervisor: supervisor.into(), cache: None, qemu: None }
    }
}

/// What a person should hear: whose VMs run on the software engine without their having asked for it, once for each boot
/// of the host; and who asked for KVM by name where it seems not to work, each time.
pub fn notice(choice: EngineChoice, options: &EngineOptions) -> Option<String> {
    if Arch::host() != Some(Arch::X86_64) {
        return None;
    }
    if choice == EngineChoice::Named(EngineKind::Kvm) {
        let problem = native::find_problem(options)?;
        return Some(format!("KVM, which was asked for by name, seems not to work here ({problem})"));
    }
    if choice != EngineChoice::Auto {
        return None;
    }
    let problem = native::tell_once(options)?;
    Some(format!(
        "no hardware virtualization ({problem}): guests compute about {} times slower, in an emulator, which keeps \
         them in less surely than hardware does; see `vmm doctor`",
        super::software::SLOWDOWN
    ))
}

/// What a machine asks of its engine beside what every engine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Its processors.
    pub cpus: u8,
    /// Its guest may run virtual machines itself.
    pub nested: bool,
    /// What its console is.
    pub console: ConsoleKind,
    /// It has a balloon.
    pub balloon: bool,
    /// Its memory is in huge pages.
    pub huge_pages: bool,
}

/// Whether the engine that would be chosen can give what a machine asks for, as far as that is known before it is made.
pub fn foresee(choice: EngineChoice, wishes: Wishes, options: &EngineOptions) -> Result<(), EngineError> {
    use super::software::SoftwareError;
    use snafu::ResultExt;
    let Wishes { cpus, nested, console, balloon, huge_pages } = wishes;
    let refused = if console == ConsoleKind::Virtio {
        SoftwareError::NotInQemu { kind: "console" }
    } else if balloon {
        SoftwareError::NotInQemu { kind: "balloon" }
    } else if huge_pages {
        SoftwareError::HugePages
    } else if nested && cpus > 1 {
        SoftwareError::NestedProcessors { count: cpus }
    } else {
        return Ok(());
    };
    let is_software = match choice {
        EngineChoice::Named(kind) => kind == EngineKind::Software,
        EngineChoice::Auto => Arch::host() != Some(Arch::X86_64) || native::find_problem(options).is_some(),
    };
    if is_software { Err(refused).context(SoftwareSnafu) } else { Ok(()) }
}

/// Finds the engine for a machine of architecture `arch`.
pub fn select(
    choice: EngineChoice,
    require_hardware: bool,
    arch: Arch,
    options: &EngineOptions,
) -> Result<Box<dyn Engine>, EngineError> {
    use snafu::ResultExt;
    match choice {
        EngineChoice::Named(EngineKind::Kvm) if arch == Arch::X86_64 => {
            // It is tried even so: the probe may be wrong.
            if let Some(problem) = native::find_problem(options) {
                tracing::warn!(%problem, "KVM was asked for by name, and may not work");
            }
            Ok(Box::new(NativeEngine::kvm(arch).context(NativeSnafu)?))
        }
        EngineChoice::Named(kind @ (EngineKind::Kvm | EngineKind::Hvf)) => NotBuiltSnafu { kind }.fail(),
        EngineChoice::Auto | EngineChoice::Named(EngineKind::Software) => {
            if choice == EngineChoice::Auto && arch == Arch::X86_64 {
                match native::find_problem(options) {
                    None => return Ok(Box::new(NativeEngine::kvm(arch).context(NativeSnafu)?)),
                    Some(problem) if require_hardware => {
                        return HardwareRequiredSnafu { reason: problem.to_string() }.fail();
                    }
                    Some(problem) => {
                        tracing::info!(%problem, "no hardware virtualization: the software engine it is");
                    }
                }
            } else if require_hardware {
                let reason = "the software engine was asked for";
                return HardwareRequiredSnafu { reason }.fail();
            }
            Ok(Box::new(SoftwareEngine::find(arch, options).context(SoftwareSnafu)?))
        }
    }
}
