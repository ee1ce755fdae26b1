//! `state.json`: what the monitor recorded of a VM's run, and the state that is derived from it and from what lives.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::machine::RunExits;

/// What a VM does, derived from what lives: the lock, the control socket, the recorded end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// It never ran.
    Created,
    /// Its guest boots.
    Starting,
    /// It ended though nobody asked for it, and is about to be started again.
    Restarting,
    /// Its guest answers.
    Running,
    /// Its processors stand still, as asked.
    Paused,
    /// It shuts down.
    Stopping,
    /// It ended as it was asked to, or by itself.
    Stopped,
    /// It ended in a way that nobody asked for.
    Crashed,
}

impl VmState {
    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Restarting => "restarting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
        }
    }

    /// Whether a monitor process has it.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Stopping)
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kinds of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// Somebody asked for it, and the guest shut down in order.
    Stopped,
    /// Somebody asked for it at once, or the guest did not shut down in time.
    Killed,
    /// Whoever started it is gone.
    StarterGone,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest did not get ready in time.
    NeverReady,
    /// The guest's agent says that it cannot go on.
    AgentFailed,
    /// The guest's agent speaks another version of the protocol.
    AgentVersion,
    /// The engine could not start the machine.
    StartFailed,
    /// The engine failed while the machine ran.
    EngineFailed,
    /// The monitor was killed, so that nobody could record the end.
    MonitorKilled,
    /// A kind of end that a newer monitor wrote.
    #[serde(other)]
    Unknown,
}

impl EndReason {
    /// Whether it is an end that nobody asked for.
    pub fn is_crash(self) -> bool {
        match self {
            Self::PowerOff | Self::Reset | Self::Stopped | Self::Killed | Self::StarterGone => false,
            Self::GuestPanic
            | Self::NeverReady
            | Self::AgentFailed
            | Self::AgentVersion
            | Self::StartFailed
            | Self::EngineFailed
            | Self::MonitorKilled
            | Self::Unknown => true,
        }
    }

    /// A stable word for it, also the code of the error that it makes.
    pub fn code(self) -> &'static str {
        match self {
            Self::PowerOff => "power_off",
            Self::Reset => "reset",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::StarterGone => "starter_gone",
            Self::GuestPanic => "guest_panic",
            Self::NeverReady => "never_ready",
            Self::AgentFailed => "agent_failed",
            Self::AgentVersion => "agent_version",
            Self::StartFailed => "start_failed",
            Self::EngineFailed => "engine_failed",
            Self::MonitorKilled => "monitor_killed",
            Self::Unknown => "unknown",
        }
    }
}

/// How a run of a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The kind of end.
    pub reason: EndReason,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do about it, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines of the console, where they say something about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub console_tail: String,
    /// When it ended.
    pub at: Timestamp,
}

/// How long each step of a start took, in microseconds after the start was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// The VM is described and its image there: its monitor is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub described: Option<u64>,
    /// The monitor process read what to do.
    pub monitor: Option<u64>,
    /// The machine is built: disks open, devices made.
    pub built: Option<u64>,
    /// The engine runs it.
    pub launched: Option<u64>,
    /// No moment, but the processor time of the monitor's process until it let the guest's first processor go, where that
    /// is a thread of its own.
    pub processor: Option<u64>,
    /// The guest's first byte reached the console.
    pub console: Option<u64>,
    /// The agent said hello.
    pub agent: Option<u64>,
    /// The agent is ready: the root is mounted, commands run.
    pub ready: Option<u64>,
    /// The same from within, as the guest tells it: believed as far as it can be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Box<GuestTimings>>,
}

/// When a guest came to the steps of its boot, on the same clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestTimings {
    /// The kernel's clock began. What it does before takes a few milliseconds.
    pub kernel: u64,
    /// The kernel started the agent.
    pub agent: u64,
    /// The agent's connection to the host stood.
    pub connected: u64,
    /// The modules that the root needs were loaded.
    pub modules: u64,
    /// The agent was told what to be.
    pub configured: u64,
    /// The root's device was there.
    pub root_device: u64,
    /// The root was mounted.
    pub root_mounted: u64,
    /// The agent took requests.
    pub ready: u64,
}

impl GuestTimings {
    /// What the guest says of its own clock, on the host's. Each of two messages tells how far the clocks are apart, less the
    /// time that it was under way: that which was so for less is nearer to the truth. `heard` are the moments when the
    /// agent's greeting and its being ready were heard; nothing of the guest was before `earliest`. `None` where the order
    /// cannot be true.
    #[must_use]
    pub fn aligned(said: &vmm_protocol::Timings, heard: [u64; 2], earliest: u64) -> Option<Self> {
        let apart = heard[0].checked_sub(said.connected_us)?.min(heard[1].checked_sub(said.ready_us)?);
        let at = |guest: u64| guest.checked_add(apart);
        let timings = Self {
            kernel: apart,
            agent: at(said.started_us)?,
            connected: at(said.connected_us)?,
            modules: at(said.modules_us)?,
            configured: at(said.configured_us)?,
            root_device: at(said.root_device_us)?,
            root_mounted: at(said.root_mounted_us)?,
            ready: at(said.ready_us)?,
        };
        (apart >= earliest && timings.moments().is_sorted()).then_some(timings)
    }

    /// All of them, in the order in which they come.
    #[must_use]
    pub fn moments(&self) -> [u64; 8] {
        let Self { kernel, agent, connected, modules, configured, root_device, root_mounted, ready } = *self;
        [kernel, agent, connected, modules, configured, root_device, root_mounted, ready]
    }
}

/// What `state.json` holds. Its writer is the monitor, whoever holds the VM's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The version of this file's format.
    pub version: u32,
    /// What the VM did when this was written.
    pub state: VmState,
    /// The monitor's process.
    pub monitor_pid: u32,
    /// The folder of its sockets. Another session of the same user may have another runtime folder.
    pub sockets: PathBuf,
    /// The engine that runs the machine, by name: a newer monitor may have one that we do not know.
    pub engine: Option<String>,
    /// When this run was started.
    pub started: Timestamp,
    /// How long its start took.
    #[serde(default)]
    pub timings: Timings,
    /// How often its processors left the guest.
    #[serde(default)]
    pub exits: RunExits,
    /// How it ended.
    pub end: Option<End>,
}

impl StateRecord {
    /// The version of the format that is written here.
    pub const VERSION: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_clock_is_put_on_the_hosts_and_believed_as_far_as_it_can_be_true() {
        let said = vmm_protocol::Timings {
            started_us: 400,
            connected_us: 450,
            modules_us: 480,
            configured_us: 490,
            root_device_us: 500,
            root_mounted_us: 600,
            ready_us: 700,
        };
        // Heard 10 after it was said, and 3 after: the second tells more.
        let aligned = GuestTimings::aligned(&said, [1_460, 1_703], 900).unwrap();
        assert_eq!((aligned.kernel, aligned.agent, aligned.ready), (1_003, 1_403, 1_703));
        // Older than its monitor, ready before it was connected, of another age, without end.
        assert_eq!(GuestTimings::aligned(&said, [1_460, 1_703], 1_100), None);
        assert_eq!(
            GuestTimings::aligned(&vmm_protocol::Timings { ready_us: 1, ..said }, [1_460, 1_703], 900),
            None
        );
        let old = vmm_protocol::Timings { connected_us: 5_000, ..said };
        assert_eq!(GuestTimings::aligned(&old, [1_460, 1_703], 900), None);
        let endless = vmm_protocol::Timings { root_mounted_us: u64::MAX, ..said };
        assert_eq!(GuestTimings::aligned(&endless, [1_460, 1_703], 900), None);
    }
}
