//! The software engine: a jailed QEMU that only runs the processors, our devices over vhost-user.

mod arguments;
mod clock;
mod install;
mod jail;
mod launch;
mod plan;
mod probe;
mod qemu;
mod qemu_cache;
mod qmp;
mod running;
mod supervisor;
mod tick_rate;
mod timer_watch;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use snafu::{ResultExt, Snafu, ensure};

pub(super) use probe::{SLOWDOWN, probe};
pub use qemu::{Qemu, QemuError, QemuVersion};
pub use qmp::QmpError;
pub use supervisor::supervisor_main;

use super::{
    Abilities, Engine, EngineError, EngineKind, EngineOptions, MachineEnd, RunningMachine, SoftwareSnafu,
};
use crate::arch::Arch;
use crate::machine::Machine;
use clock::CounterRate;
use qemu_cache::QemuCache;

/// The first argument that makes an executable call [`supervisor_main`].
pub const SUPERVISOR_ARGUMENT: &str = "--supervise-qemu";

/// Measured: 40 boot in ten seconds on two cores, and with 64 the kernel no longer finds QEMU's ACPI tables and halts.
const MAX_PROCESSORS: u8 = 32;

/// Whether the engine can have such a machine. With several processors, each is a thread of QEMU's (10.0), and any of them
/// changes the first one's record of its SVM state, without a lock, when it restores floating-point registers
/// (`cpu_clear_ignne`, `hflags2`). One thread for all would lack the barriers that our devices need.
fn check_processors(arch: Arch, count: u8, nested: bool) -> Result<(), SoftwareError> {
    ensure!(count <= MAX_PROCESSORS, ProcessorsSnafu { count });
    ensure!(!nested || arch != Arch::X86_64 || count <= 1, NestedProcessorsSnafu { count });
    Ok(())
}

/// The engine itself: a QEMU that was found fit.
#[derive(Clone, Debug)]
pub struct SoftwareEngine {
    qemu: Qemu,
    supervisor: PathBuf,
    cache: Option<PathBuf>,
    clock: Arc<OnceLock<CounterRate>>,
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
    /// The board has no place for so many devices.
    #[snafu(display("the machine has {count} devices; the software engine has places for {limit}"))]
    Devices {
        /// How many it has.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// QEMU's boards have no place for so many processors.
    #[snafu(display(
        "the machine has {count} processors; the software engine runs at most {MAX_PROCESSORS}"
    ))]
    Processors {
        /// How many it has.
        count: u8,
    },
    /// QEMU tears the guests of such a guest.
    #[snafu(display(
        "the machine has {count} processors; on the software engine one that nests (--nested) has one"
    ))]
    NestedProcessors {
        /// How many it has.
        count: u8,
    },
    /// QEMU cannot have such a device from us.
    #[snafu(display("the software engine has no virtio {kind}"))]
    NotInQemu {
        /// Which kind.
        kind: &'static str,
    },
    /// Its memory is made by QEMU, in pages of its choice.
    #[snafu(display("the software engine has no huge pages to give"))]
    HugePages,
    /// The host has no descriptor, thread or socket left.
    #[snafu(display("cannot prepare the machine's sockets and threads"))]
    Prepare {
        /// The cause.
        source: io::Error,
    },
    /// The supervisor cannot be started.
    #[snafu(display("cannot start QEMU's supervisor {}", path.display()))]
    Supervisor {
        /// The executable.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The supervisor ended without a word.
    #[snafu(display("{} ended before it started QEMU: is it the vmm of this version?", path.display()))]
    Silent {
        /// The executable.
        path: PathBuf,
    },
    /// The connection to the supervisor is broken.
    #[snafu(display("lost QEMU's supervisor"))]
    Talk {
        /// The cause.
        source: io::Error,
    },
    /// The supervisor could not start QEMU.
    #[snafu(display("QEMU could not be started: {reason}"))]
    Refused {
        /// Why.
        reason: String,
    },
    /// A command to QEMU failed.
    #[snafu(display("QEMU did not obey"))]
    Control {
        /// The cause.
        source: QmpError,
    },
}

impl SoftwareError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoQemu { source } => Some(source.hint()),
            Self::Processors { .. } => Some("give it fewer (--cpus)".to_owned()),
            Self::NestedProcessors { .. } => {
                Some("give it one (--cpus 1), or run it where there is KVM".to_owned())
            }
            Self::NotInQemu { .. } | Self::HugePages => {
                Some("make the VM without, or use an engine on hardware virtualization".to_owned())
            }
            Self::Silent { .. } => Some("set VMM_BIN to the vmm that belongs to this program".to_owned()),
            _ => None,
        }
    }
}

impl SoftwareEngine {
    /// Finds a QEMU for guests of this architecture.
    pub fn find(arch: Arch, options: &EngineOptions) -> Result<Self, SoftwareError> {
        let cache = QemuCache::new(options.cache.clone());
        let qemu = Qemu::find(arch, options.qemu.as_deref(), &cache).context(NoQemuSnafu)?;
        let (supervisor, cache) = (options.supervisor.clone(), options.cache.clone());
        Ok(Self { qemu, supervisor, cache, clock: Arc::default() })
    }

    /// The QEMU that it uses.
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// The rate of the counter that the guest will read; found once.
    fn clock(&self) -> &CounterRate {
        self.clock.get_or_init(|| CounterRate::find(self.cache.as_deref()))
    }
}

impl Engine for SoftwareEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Software
    }

    fn abilities(&self) -> Abilities {
        Abilities { pause: true, hardware_isolation: false, max_cpus: MAX_PROCESSORS }
    }

    fn launch(
        &self,
        machine: Machine,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, EngineError> {
        Ok(Box::new(self.launch_machine(machine, ended).context(SoftwareSnafu)?))
    }
}
