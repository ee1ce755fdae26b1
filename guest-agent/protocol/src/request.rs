//! What a client asks of the agent: one request in each header.

use serde::{Deserialize, Serialize};

use crate::{ByteString, FileRequest, ProcessId, Signal, SignalTarget, TerminalSize, Transfer};

/// A request. What the agent answers stands with each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a process: [`Reply::Started`](crate::Reply::Started), then, if attached, frames in both directions.
    Start(Start),
    /// Take over the input and output of a process: [`Reply::Attached`](crate::Reply::Attached), the tail of its
    /// output, then frames in both directions. Whoever was attached before is told so and let go.
    Attach(Attach),
    /// Show what is kept of a process's output, without taking it over from anybody:
    /// [`Reply::Attached`](crate::Reply::Attached), the tail of its output as frames, then its end if it has ended, or else
    /// that we are let go. Since 1.3.
    Output {
        /// Which.
        process: ProcessId,
    },
    /// Wait for a process to end: [`Reply::Ended`](crate::Reply::Ended), when it has.
    Wait {
        /// Which.
        process: ProcessId,
    },
    /// Send a signal: [`Reply::Done`](crate::Reply::Done).
    Signal {
        /// To which process.
        process: ProcessId,
        /// Which signal.
        signal: Signal,
        /// Whom of it.
        #[serde(default)]
        target: SignalTarget,
    },
    /// Change the size of a process's terminal: [`Reply::Done`](crate::Reply::Done).
    Resize {
        /// Which.
        process: ProcessId,
        /// The new size.
        size: TerminalSize,
    },
    /// Let go of whoever is attached to a process, which goes on: [`Reply::Done`](crate::Reply::Done).
    Detach {
        /// Which.
        process: ProcessId,
    },
    /// List the processes that the agent started: [`Reply::Processes`](crate::Reply::Processes).
    Processes,
    /// Ask how the guest is: [`Reply::Health`](crate::Reply::Health).
    Health,
    /// Hold the file systems on the guest's disks still: [`Reply::Frozen`](crate::Reply::Frozen), when they do. They go on
    /// when this client ends its half of the connection, or is gone, or after 10 s; then comes
    /// [`Reply::Thawed`](crate::Reply::Thawed). Since 1.1.
    Freeze,
    /// Bring files into the guest or out of it: [`Reply::Transferring`](crate::Reply::Transferring), then an archive in one
    /// direction, and what became of it. Since 1.2.
    Transfer(Transfer),
    /// Look at a file or folder, or change it. Since 1.3.
    File(FileRequest),
    /// List all processes of the guest: [`Reply::GuestProcesses`](crate::Reply::GuestProcesses) as often as there are more,
    /// then [`Reply::Done`](crate::Reply::Done). Since 1.3.
    GuestProcesses {
        /// For how long it is looked at what they do, 10 s at most.
        #[serde(default)]
        over_ms: u64,
    },
    /// Tell what the guest's kernel said since its boot, as much as it keeps of that:
    /// [`Reply::KernelLog`](crate::Reply::KernelLog) as often as there is more, then [`Reply::Done`](crate::Reply::Done). Since
    /// 1.4.
    KernelLog,
    /// Set the guest's clock, after its machine stood still: [`Reply::Done`](crate::Reply::Done). Since 1.3.
    SetClock {
        /// Nanoseconds since 1970.
        time_ns: u64,
    },
    /// Shut the guest down: [`Reply::Done`](crate::Reply::Done) as it begins.
    Shutdown(Shutdown),
}

impl Request {
    /// Whether another request can follow on the same connection: the client sends nothing between the two, and the agent
    /// itself answers. Since 1.5.
    #[must_use]
    pub fn can_be_followed(&self) -> bool {
        match self {
            Self::Start(start) => !start.attach || !start.stdin && start.terminal.is_none(),
            Self::Wait { .. }
            | Self::Signal { .. }
            | Self::Resize { .. }
            | Self::Detach { .. }
            | Self::Processes
            | Self::Health
            | Self::SetClock { .. } => true,
            Self::Attach(_)
            | Self::Output { .. }
            | Self::Freeze
            | Self::Transfer(_)
            | Self::File(_)
            | Self::GuestProcesses { .. }
            | Self::KernelLog
            | Self::Shutdown(_) => false,
        }
    }
}

/// How to start a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// The command and its arguments. Empty: the user's login shell.
    pub argv: Vec<ByteString>,
    /// Variables, over those of the machine and the user.
    pub environment: Vec<(ByteString, ByteString)>,
    /// Where it starts. The user's home when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<ByteString>,
    /// Who it runs as: `user`, `user:group`, `uid` or `uid:gid`. root when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A terminal of this size in place of three pipes: standard output and error are then one stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Its standard input comes from clients. Without, it reads an empty file.
    pub stdin: bool,
    /// This connection carries its input and output. Without, it runs on its own from the start.
    pub attach: bool,
    /// What becomes of it when the connection of an attached client breaks.
    pub on_disconnect: OnDisconnect,
    /// When its time is up it is ended, with all that it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What becomes of a process when its client is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDisconnect {
    /// It goes on, its output kept in a ring of bounded size.
    #[default]
    Continue,
    /// It is ended with all that it started: asked to end, and killed a second later.
    Kill,
}

/// How to attach to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which.
    pub process: ProcessId,
    /// The position in standard output from which to replay: what a client has already seen it need not see again.
    /// All that is kept when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_from: Option<u64>,
    /// The same for standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_from: Option<u64>,
    /// What becomes of the process when this connection breaks.
    #[serde(default)]
    pub on_disconnect: OnDisconnect,
}

/// How to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// What comes after.
    pub mode: ShutdownMode,
    /// How long processes may take to end themselves.
    pub grace_ms: u64,
}

/// What comes after a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownMode {
    /// The machine is off.
    PowerOff,
    /// The machine starts again.
    Reboot,
}
