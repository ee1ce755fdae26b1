//! What runs a machine's processors: the hardware's virtualization, or software.
//!
//! May depend on: `machine`, `hypervisor`, `boot`, `virtio::transport`, `memory`, `arch`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// QEMU's TCG as the processor, our devices over vhost-user.
    Software,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Software => f.write_str("software"),
        }
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
    /// [`RunningMachine::stop`] ended it.
    Stopped,
    /// The engine failed: what happened, in a sentence.
    Failed(String),
}

/// An engine: starts machines.
pub trait Engine: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> EngineKind;

    /// Starts a machine. `ended` is called once, from a thread of the engine's, when it has ended and everything of
    /// it is gone.
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
}

/// Why an engine could not do something (the engine's own error type goes here).
pub type EngineError = Box<dyn std::error::Error + Send + Sync>;
