//! The lines of the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm_disk::LayerSpec;
use vmm_protocol::Version;

use crate::home::{End, HealthReport, Timestamp, Timings, VmId, VmName, VmState};
use crate::machine::RunExits;

/// The first line of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the control language.
    pub control: Version,
    /// The version of the program.
    pub program: String,
}

impl Hello {
    /// Ours.
    pub fn ours() -> Self {
        Self { control: super::VERSION, program: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientLine {
    /// The first line.
    Hello(Hello),
    /// Every other line.
    Request {
        /// Repeated by the answer.
        id: u64,
        /// What is asked.
        what: Request,
    },
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a VM. Only on the monitor's standard input, as the first request. Answered with [`Answer::Ready`] or
    /// [`Answer::Ended`].
    Start(StartRequest),
    /// What does the VM do? Answered with [`Answer::Status`] at once.
    Status,
    /// Answered when the VM has come so far: [`Answer::Ready`] or [`Answer::Ended`].
    Wait {
        /// How far.
        goal: Goal,
    },
    /// Shut down. Answered with [`Answer::Ended`] when everything of the VM is gone.
    Stop {
        /// How long the guest may take; nothing pulls the plug at once.
        grace_ms: u64,
    },
    /// Tell of each change from now on. Answered with [`Answer::Status`].
    Subscribe,
    /// Ask the guest to do without so much of its memory, and tell of its balloon. Answered with [`Answer::Balloon`] at
    /// once; the guest takes its time. Since 1.1.
    Balloon {
        /// How many bytes. `None`: as it is.
        target: Option<u64>,
    },
    /// Have the processors stand still. Answered with [`Answer::Status`] when they do. Since 1.3.
    Pause,
    /// Let processors that stand still go on. Answered with [`Answer::Status`] when they do. Since 1.3.
    Resume,
    /// Record a layer that is to be made as one of the VM's own. Answered with [`Answer::Owned`]. Since 1.2.
    OwnLayer {
        /// Its folder, beneath the home.
        folder: PathBuf,
    },
    /// Have the guest stand still, and go on with this layer upon its root disk: empty, and owned by the VM already. Two
    /// files travel with the request: the layer's, open for writing, and that of the top until now, for reading. Answered
    /// with [`Answer::LayerAdded`]; what lies below is written by nobody any more. Since 1.2.
    AddLayer {
        /// The layer.
        layer: LayerSpec,
        /// What lies below is kept by this name.
        #[serde(default)]
        snapshot: Option<VmName>,
    },
    /// Join a socket to the VM's console: what the guest writes comes out of it, beginning with what it wrote last, and what
    /// is written to it is typed there. The socket travels with the request, a stream. Answered with [`Answer::Console`].
    /// Of a reader that is slow something is left out, which it is told in its place. Since 1.3.
    Console,
    /// Call the VM so from now on: its name points to it already. Answered with [`Answer::Renamed`] once its description
    /// says so. Since 1.3.
    Rename {
        /// The name.
        name: VmName,
    },
}

/// How far a VM is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Its agent answers, or it has ended.
    Ready,
    /// It has ended.
    Ended,
}

/// How to run a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The home's folder.
    pub home: PathBuf,
    /// The VM.
    pub id: VmId,
    /// The VM outlives this connection once it is ready; without, its end is the VM's.
    pub detached: bool,
    /// The VM was created for this start: when that is given up, nothing of it stays.
    pub fresh: bool,
    /// How long the guest may take to get ready.
    pub ready_timeout_ms: u64,
    /// The monitor's threads are held to the system calls that their roles need.
    #[serde(default = "yes")]
    pub seccomp: bool,
    /// When the start was asked for, on the system's monotonic clock, in microseconds: the zero of the timings.
    pub asked_at_us: u64,
}

fn yes() -> bool {
    true
}

/// A line from a monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorLine {
    /// The first line.
    Hello(Hello),
    /// The answer to a request.
    Answer {
        /// The request's number.
        id: u64,
        /// What is answered.
        what: Answer,
    },
    /// What happened.
    Event(Event),
    /// A line was no request; the connection ends here.
    Refused(Refusal),
}

/// What a monitor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What the VM does.
    Status(Status),
    /// Its agent answers.
    Ready(Status),
    /// It has ended, and everything of it is gone.
    Ended(End),
    /// What the guest does without.
    Balloon(Balloon),
    /// The layer is recorded.
    Owned,
    /// The disk goes on with the layer.
    LayerAdded {
        /// How long the guest's file systems stood still, in microseconds.
        frozen_us: u64,
    },
    /// The socket is joined to the console.
    Console,
    /// The VM's description has its new name.
    Renamed,
    /// It was not done.
    Refused(Refusal),
}

/// What a guest does without for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// How many bytes of its memory it is asked to do without.
    pub target: u64,
    /// How many it says that it does without.
    pub actual: u64,
}

/// What a VM does, as its monitor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The VM.
    pub id: VmId,
    /// What it does.
    pub state: VmState,
    /// The monitor's process.
    pub monitor_pid: u32,
    /// The other processes of the machine.
    #[serde(default)]
    pub processes: Vec<u32>,
    /// The engine that runs it, once that is known.
    #[serde(default)]
    pub engine: Option<String>,
    /// The monitor's threads are held to the system calls that their roles need.
    #[serde(default)]
    pub seccomp: bool,
    /// When this run was started.
    pub started: Timestamp,
    /// How long the steps of its start took.
    #[serde(default)]
    pub timings: Timings,
    /// How often its processors left the guest.
    #[serde(default)]
    pub exits: RunExits,
    /// What its health check came to, if it has one. Since 1.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthReport>,
}

/// What a monitor tells those who subscribed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The VM does something else now.
    State(Status),
    /// It has ended.
    Ended(End),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The client speaks another MAJOR version.
    Version,
    /// The line is not one of the language.
    Malformed,
    /// The request is not for this connection, or not for now.
    OutOfPlace,
    /// What is asked for cannot be. Since 1.1.
    Invalid,
    /// A kind that a newer monitor knows.
    #[serde(other)]
    Other,
}
