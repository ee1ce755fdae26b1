//! The software engine: a jailed QEMU that only runs the processors, our devices over vhost-user.

mod install;
mod qemu;
mod qemu_cache;

use std::path::PathBuf;
use std::process::ExitCode;

use snafu::{ResultExt, Snafu};

pub use qemu::{Qemu, QemuError, QemuVersion};

use super::{
    Abilities, Engine, EngineError, EngineKind, EngineOptions, MachineEnd, NotBuiltSnafu, RunningMachine,
};
use crate::arch::Arch;
use crate::machine::Machine;
use qemu_cache::QemuCache;

/// The first argument that makes an executable call [`supervisor_main`].
pub const SUPERVISOR_ARGUMENT: &str = "--supervise-qemu";

/// What an executable does that was started with [`SUPERVISOR_ARGUMENT`] as its first argument: keeps a QEMU for
/// the monitor that started it, in a jail, and ends when either is gone.
///
/// Call it before anything else in `main`: it needs a process with one thread and no open files of its own.
pub fn supervisor_main() -> ExitCode {
    ExitCode::FAILURE
}

/// The engine itself: a QEMU that was found fit.
#[derive(Clone, Debug)]
pub struct SoftwareEngine {
    qemu: Qemu,
    supervisor: PathBuf,
}

/// Why the software engine could not do something.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(in crate::engine)))]
pub enum SoftwareError {
    /// There is no QEMU to use.
    #[snafu(display("there is no QEMU to run it"))]
    NoQemu {
        /// The cause.
        source: QemuError,
    },
}

impl SoftwareError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoQemu { source } => Some(source.hint()),
        }
    }
}

impl SoftwareEngine {
    /// Finds a QEMU for guests of this architecture.
    pub fn find(arch: Arch, options: &EngineOptions) -> Result<Self, SoftwareError> {
        let cache = QemuCache::new(options.cache.clone());
        let qemu = Qemu::find(arch, &cache).context(NoQemuSnafu)?;
        Ok(Self { qemu, supervisor: options.supervisor.clone() })
    }

    /// The QEMU that it uses.
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }
}

impl Engine for SoftwareEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Software
    }

    fn abilities(&self) -> Abilities {
        Abilities { pause: true, hardware_isolation: false, max_cpus: 64 }
    }

    fn launch(
        &self,
        _machine: Machine,
        _ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, EngineError> {
        NotBuiltSnafu { kind: EngineKind::Software }.fail()
    }
}

/// What the software engine can do on this host, and how well it is jailed.
pub(super) fn probe(arch: Arch, options: &EngineOptions) -> super::EngineProbe {
    let found = SoftwareEngine::find(arch, options);
    super::EngineProbe {
        kind: EngineKind::Software,
        usable: found.is_ok(),
        reason: match &found {
            Ok(engine) => format!("QEMU {} at {}", engine.qemu.version, engine.qemu.path.display()),
            Err(SoftwareError::NoQemu { source }) => source.to_string(),
        },
        advice: found.as_ref().err().and_then(SoftwareError::hint).into_iter().collect(),
        slowdown: Some(15),
        program: found.as_ref().ok().map(|engine| engine.qemu.path.clone()),
        version: found.as_ref().ok().map(|engine| engine.qemu.version.to_string()),
        jail: None,
        clock: None,
    }
}
