//! The host's side of the agent protocol: ask the guest's agent for processes, for its health, for its end.
//!
//! Every byte from the agent is hostile: headers and frames have limits, every answer has a deadline, text for people
//! is made printable. Depends on `arch`, `vmm-protocol` and `vmm-sys` only.

mod binary;
pub mod boot;
mod client;
mod collect;
mod connect;
mod demultiplexer;
mod error;
mod files;
mod freeze;
mod kept;
mod process;
mod spec;
mod transfer;
mod wire;

use std::time::Duration;

pub use binary::{AGENT_DIR_VARIABLE, BinaryError, binary};
pub use client::AgentClient;
pub use collect::{Collected, OutputLimits, ProcessTail};
pub use connect::{Connector, VsockSocket};
pub use error::AgentError;
pub(crate) use error::printable;
pub use files::{Listing, Watching};
pub use freeze::{FrozenGuest, Thawed};
pub(crate) use kept::KeptConnections;
pub use process::{AgentProcess, Closer, Output, ProcessOutput, ProcessStdin};
pub use spec::{AttachSpec, ProcessSpec};
pub use transfer::{Download, Upload};
pub use vmm_protocol::{
    AGENT_PORT, BOOT_PORT, ByteString, Change, ChangeKind, Configuration, ErrorKind, Exit, FileInfo,
    FileKind, FolderEntry, GuestProcess, Health, Init, KernelRecord, OnDisconnect, Outcome, ProcessId,
    ProcessInfo, Ready, Root, ShutdownMode, Signal, SignalTarget, TerminalSize, Timings,
};
pub use wire::Cancel;

/// How long a guest to whom or from whom files go may do nothing at all, unless it is told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(120);
