//! The host's side of the connection that the agent opens after a boot.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use snafu::Snafu;
use vmm_protocol::{AgentMessage, Configuration, Hello, Ready, Version, header};

use super::connect::Timed;
use super::error::printable;

/// Why a machine's agent did not become ready.
#[derive(Debug, Snafu)]
pub enum BootError {
    /// The time was up.
    #[snafu(display("the machine was not ready in time: {waited_for}"))]
    Deadline {
        /// What did not come.
        waited_for: &'static str,
    },
    /// The agent is of another MAJOR version.
    #[snafu(display(
        "the machine's agent speaks version {theirs} of its protocol, this program {}",
        vmm_protocol::VERSION
    ))]
    OtherVersion {
        /// Its version.
        theirs: Version,
    },
    /// The agent said what went wrong.
    #[snafu(display("the machine's agent could not {what}: {why}"))]
    Failed {
        /// What it tried; printable.
        what: String,
        /// Why it failed; printable.
        why: String,
    },
    /// The connection broke.
    #[snafu(display("the machine's agent ended before it was ready"))]
    Lost,
    /// What came is not what the protocol says.
    #[snafu(display("the machine's agent breaks the protocol"))]
    Protocol {
        /// How.
        source: header::HeaderError,
    },
    /// A message came at the wrong time.
    #[snafu(display("the machine's agent sent its messages in the wrong order"))]
    OutOfOrder,
}

impl From<header::HeaderError> for BootError {
    fn from(source: header::HeaderError) -> Self {
        match source {
            header::HeaderError::OtherVersion { theirs } => Self::OtherVersion { theirs },
            header::HeaderError::Closed => Self::Lost,
            header::HeaderError::Transfer { source } if source.kind() == io::ErrorKind::TimedOut => {
                Self::Deadline { waited_for: "its agent did not answer" }
            }
            header::HeaderError::Transfer { .. } => Self::Lost,
            source => Self::Protocol { source },
        }
    }
}

/// What the agent said while it became ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootReport {
    /// Who it is; printable.
    pub hello: Hello,
    /// That it is ready, and since when.
    pub ready: Ready,
    /// When its greeting and its being ready were heard: microseconds on the host's monotonic clock.
    pub heard_us: [u64; 2],
}

/// Tells the agent on the other end of `stream`, which it opened to [`BOOT_PORT`](vmm_protocol::BOOT_PORT), what to
/// be, and waits until it is ready.
///
/// The stream stays open while the agent lives: its end is the agent's end.
pub fn configure(
    stream: &UnixStream,
    configuration: &Configuration,
    deadline: Instant,
) -> Result<BootReport, BootError> {
    let mut timed = Timed::new(stream, Some(deadline));
    let hello = match header::read(&mut timed)? {
        AgentMessage::Hello(hello) => {
            Hello { agent: printable(&hello.agent), kernel: printable(&hello.kernel) }
        }
        AgentMessage::Failed(failed) => return Err(told(&failed)),
        AgentMessage::Ready(_) => return OutOfOrderSnafu.fail(),
    };
    let greeted_us = vmm_sys::clock::monotonic_us();
    header::write(&mut timed, configuration)?;
    match header::read(&mut timed)? {
        AgentMessage::Ready(ready) => {
            let heard_us = [greeted_us, vmm_sys::clock::monotonic_us()];
            Ok(BootReport { hello, ready, heard_us })
        }
        AgentMessage::Failed(failed) => Err(told(&failed)),
        AgentMessage::Hello(_) => OutOfOrderSnafu.fail(),
    }
}

fn told(failed: &vmm_protocol::Failed) -> BootError {
    BootError::Failed { what: printable(&failed.what), why: printable(&failed.why) }
}
