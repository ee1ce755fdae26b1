//! What runs a machine's processors: the hardware's virtualization, or software.
//!
//! May depend on: `machine`, `hypervisor`, `boot`, `virtio::transport`, `memory`, `arch`.

mod cache;
mod choice;
pub mod native;
mod probe;
pub mod software;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snafu::Snafu;

pub use choice::{EngineChoice, EngineOptions, Wishes, foresee, notice, select};
pub use probe::{Bar, BarState, EngineProbe, HostProbe, JailReport, Virtualization, probe};

use crate::machine::{BalloonControl, Exits, Machine};

/// The engines there are. Not every build has each: [`select`] says which one serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The processor's virtualization, through Linux.
    Kvm,
    /// The processor's virtualization, through macOS.
    Hvf,
    /// QEMU's TCG as the processor, our devices over vhost-user.
    Software,
}

impl EngineKind {
    /// Every engine, the quickest first.
    pub const ALL: [Self; 3] = [Self::Kvm, Self::Hvf, Self::Software];

    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Software => "software",
        }
    }

    /// Whether the processor itself keeps the guest apart from the host.
    pub fn is_hardware(self) -> bool {
        match self {
            Self::Kvm | Self::Hvf => true,
            Self::Software => false,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no engine.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("there is no engine {name:?}: use auto, kvm, hvf or software"))]
pub struct UnknownEngine {
    /// What was written.
    name: String,
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| UnknownEngine { name: name.to_owned() })
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineEnd {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset, or reset itself by a fault.
    Reset,
    /// The guest's kernel panicked, and told so.
    Panicked,
    /// [`RunningMachine::stop`] ended it.
    Stopped,
    /// The engine failed: what happened, in a sentence.
    Failed(String),
}

/// What an engine can do with a machine. Asked, never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// [`RunningMachine::pause`] and [`RunningMachine::resume`] work.
    pub pause: bool,
    /// The processor itself keeps the guest apart from the host.
    pub hardware_isolation: bool,
    /// The most processors a machine can have.
    pub max_cpus: u8,
}

/// What is known of a machine that was launched, for the VM's state and for `vmm doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchReport {
    /// The engine that runs it.
    pub engine: EngineKind,
    /// The program that runs the processors, with its version, where that is not ourselves.
    pub program: Option<String>,
    /// Which bars keep that program in. None where there is no such program.
    pub jail: Option<JailReport>,
    /// Processor time that our process had used when the first processor was let into the guest, in microseconds. `None`
    /// where the processors are another program's.
    pub processor_us: Option<u64>,
}

/// An error with its causes, in a line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// An engine: starts machines.
pub trait Engine: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> EngineKind;

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// Starts a machine. The calling thread is for this machine only, and held to its role before the guest runs
    /// (see [`threads`](crate::threads)). `ended` is called once, from a thread of the engine's, when the machine has
    /// ended and everything of it is gone. After an error it is not called.
    fn launch(
        &self,
        machine: Machine,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, EngineError>;
}

/// A machine that runs. Dropping it stops it at once.
pub trait RunningMachine: Send {
    /// Stops the processors; the devices answer what is in flight.
    fn pause(&mut self) -> Result<(), EngineError>;

    /// Lets the processors go on.
    fn resume(&mut self) -> Result<(), EngineError>;

    /// Ends it at once, as pulling the plug does. Asking the guest to shut down is the agent's part.
    fn stop(&mut self) -> Result<(), EngineError>;

    /// The processes beside our own that belong to the machine.
    fn processes(&self) -> Vec<u32>;

    /// What is known of how it runs.
    fn report(&self) -> &LaunchReport;

    /// What tells how often its processors left the guest. `None`: they are another program's, which counts nothing.
    fn exits(&self) -> Option<Arc<dyn ExitCounter>> {
        None
    }

    /// The hold on its balloon. `None`: it has none.
    fn balloon(&self) -> Option<BalloonControl> {
        None
    }
}

/// Tells how often a machine's processors left the guest. It outlives the machine.
pub trait ExitCounter: Send + Sync {
    /// Until now, from any thread. A machine that runs goes on meanwhile.
    fn exits(&self) -> Exits;
}

/// Why an engine could not do something.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum EngineError {
    /// The engine that was asked for by name is not in this build, or not for this host.
    #[snafu(display("this build of vmm has no {kind} engine"))]
    NotBuilt {
        /// The engine that was asked for.
        kind: EngineKind,
    },
    /// Isolation by hardware was asked for, and no engine here gives it.
    #[snafu(display("hardware virtualization is required, and none can be used here: {reason}"))]
    HardwareRequired {
        /// Why there is none.
        reason: String,
    },
    /// The native engine failed.
    #[snafu(display("the native engine cannot run the machine"))]
    Native {
        /// The cause.
        #[snafu(source(from(native::NativeError, Box::new)))]
        source: Box<native::NativeError>,
    },
    /// The software engine failed.
    #[snafu(display("the software engine cannot run the machine"))]
    Software {
        /// The cause.
        #[snafu(source(from(software::SoftwareError, Box::new)))]
        source: Box<software::SoftwareError>,
    },
}

impl EngineError {
    /// What the user can do about it, where there is something: one or more commands or a sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotBuilt { .. } => Some("use `--engine auto` or `--engine software`".to_owned()),
            Self::HardwareRequired { .. } => {
                Some("leave out `--require-hardware` to run on the software engine".to_owned())
            }
            Self::Native { source } => source.hint(),
            Self::Software { source } => source.hint(),
        }
    }
}
