//! What can be told of a VM without entering it.

use serde::Serialize;

use crate::home::{End, EngineChoice, Init, Timestamp, Timings, VmId, VmName, VmState};
use crate::machine::MemorySize;

/// What is known of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VmInfo {
    /// Its id.
    pub id: VmId,
    /// Its name. One without is gone when it ends.
    pub name: Option<VmName>,
    /// What it does.
    pub state: VmState,
    /// Its monitor lives, but does not answer in time.
    pub unresponsive: bool,
    /// The image, as it was asked for.
    pub image: String,
    /// The version of the image.
    pub image_version: String,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The engine that was asked for.
    pub engine_choice: EngineChoice,
    /// The engine that runs it, or ran it last.
    pub engine: Option<String>,
    /// Who is PID 1 in the guest.
    pub init: Init,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last started.
    pub started: Option<Timestamp>,
    /// How long the steps of that start took.
    pub timings: Timings,
    /// The monitor's process, while there is one.
    pub monitor_pid: Option<u32>,
    /// The other processes of the machine, while it runs.
    pub processes: Vec<u32>,
    /// How it ended last.
    pub end: Option<End>,
}
