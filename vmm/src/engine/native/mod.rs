//! The native engine: the guest's processors are threads of ours on the host's virtualization, our devices its
//! registers.

mod board;
mod control;
mod exits;
mod keyboard;
mod launch;
mod probe;
mod processor;
mod running;
mod trial;

use std::io;
use std::sync::Arc;

use snafu::{ResultExt, Snafu};

pub(super) use probe::{find_problem, probe, tell_once};
pub use trial::{TRIAL_ARGUMENT, trial_main};

use super::{Abilities, Engine, EngineError, EngineKind, MachineEnd, NativeSnafu, RunningMachine};
use crate::arch::Arch;
use crate::arch::x86_64::{TooManyDevices, virtualization};
use crate::boot::{LoadError, X86BootError};
use crate::hypervisor::{Hypervisor, HypervisorError};
use crate::machine::{Machine, MemorySize};

/// What an x86_64 guest without firmware finds by its local APIC's eight bits, but for the number that means all.
const MOST_PROCESSORS: usize = 255;

/// The engine itself, on a hypervisor that was opened.
pub struct NativeEngine {
    kind: EngineKind,
    hypervisor: Arc<dyn Hypervisor>,
}

/// Why the native engine could not do something.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(in crate::engine)))]
pub enum NativeError {
    /// The host's virtualization cannot be used, or refused a step.
    #[snafu(display("the host's virtualization does not serve"))]
    Hypervisor {
        /// The cause.
        source: HypervisorError,
    },
    /// The guest is of another architecture than the host.
    #[snafu(display("a guest for {guest} cannot run on this host's processor"))]
    Architecture {
        /// The guest's.
        guest: Arch,
    },
    /// More processors than the hypervisor permits.
    #[snafu(display("the machine has {count} processors; this host permits {limit}"))]
    Processors {
        /// How many it has.
        count: u8,
        /// How many are possible.
        limit: usize,
    },
    /// The hypervisor lets no guest run virtual machines.
    #[snafu(display("this host's KVM lets no guest run virtual machines itself"))]
    Nested,
    /// The host has not so much memory to give.
    #[snafu(display("cannot get {size} of memory for the guest"))]
    Memory {
        /// How much.
        size: MemorySize,
        /// The cause.
        source: io::Error,
    },
    /// The host gives no huge pages.
    #[snafu(display("this host gives the guest no huge pages"))]
    HugePages {
        /// The cause.
        source: io::Error,
    },
    /// More memory than the processor has addresses for.
    #[snafu(display(
        "the machine has {size} of memory; this host's processor has addresses of {bits} bits only"
    ))]
    Addresses {
        /// How much.
        size: MemorySize,
        /// How many bits an address has.
        bits: u8,
    },
    /// There is no place for so many devices.
    #[snafu(display("the machine cannot be laid out"))]
    Devices {
        /// The cause.
        source: TooManyDevices,
    },
    /// There is no place for the kernel, the initial file system, or what the kernel is told.
    #[snafu(display("the machine cannot be booted"))]
    Boot {
        /// The cause.
        source: X86BootError,
    },
    /// The kernel or the initial file system cannot be loaded.
    #[snafu(display("cannot fill the guest's memory"))]
    Load {
        /// The cause.
        source: LoadError,
    },
    /// The host has no descriptor or thread left.
    #[snafu(display("cannot prepare the machine's devices and threads"))]
    Prepare {
        /// The cause.
        source: io::Error,
    },
}

impl NativeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Hypervisor { .. } => {
                Some("see `vmm doctor`; `--engine software` needs no hardware virtualization".to_owned())
            }
            Self::Architecture { .. } => Some("use `--engine software`".to_owned()),
            Self::Processors { .. } => Some("give it fewer (--cpus)".to_owned()),
            Self::Nested => Some(format!("{}, or use `--engine software`", probe::NESTING_ADVICE)),
            Self::HugePages { .. } => Some("make the VM without them (--huge-pages)".to_owned()),
            Self::Memory { .. } | Self::Addresses { .. } => Some("give it less (--memory)".to_owned()),
            _ => None,
        }
    }
}

impl NativeEngine {
    /// The engine on KVM.
    #[cfg(target_os = "linux")]
    pub fn kvm(arch: Arch) -> Result<Self, NativeError> {
        if Arch::host() != Some(arch) || arch != Arch::X86_64 {
            return ArchitectureSnafu { guest: arch }.fail();
        }
        let hypervisor = Arc::new(crate::hypervisor::kvm::Kvm::open().context(HypervisorSnafu)?);
        Ok(Self { kind: EngineKind::Kvm, hypervisor })
    }

    /// Whether guests can run virtual machines themselves.
    fn can_nest(&self) -> bool {
        let host = self.hypervisor.x86_64().and_then(|host| host.supported_cpuid().ok());
        host.is_some_and(|host| virtualization(&host).is_some())
    }

    fn max_processors(&self) -> usize {
        self.hypervisor.max_vcpus().min(MOST_PROCESSORS)
    }
}

impl Engine for NativeEngine {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    fn abilities(&self) -> Abilities {
        let max_cpus = u8::try_from(self.max_processors()).unwrap_or(u8::MAX);
        Abilities { pause: true, hardware_isolation: true, max_cpus }
    }

    fn launch(
        &self,
        machine: Machine,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, EngineError> {
        Ok(Box::new(self.launch_machine(machine, ended).context(NativeSnafu)?))
    }
}
