//! Why the agent did not do what it was asked for.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;
use vmm_protocol::{ErrorKind, FrameError, HeaderError, PieceError, Version};

/// Why a request to the agent failed.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum AgentError {
    /// The machine's socket is not there, or nobody answers on it.
    #[snafu(display("connect to the machine's socket {}", path.display()))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine has nobody who listens on the port.
    #[snafu(display("the machine refused a connection to its port {port}: is its agent running?"))]
    Refused {
        /// The port.
        port: u32,
    },
    /// What answers on the socket does not speak the `CONNECT` convention.
    #[snafu(display("{} answered `CONNECT` with something that is not `OK`", path.display()))]
    NotVsock {
        /// The socket.
        path: PathBuf,
    },
    /// The time was up.
    #[snafu(display("the time was up while trying to {what}"))]
    Deadline {
        /// What was tried.
        what: &'static str,
    },
    /// The agent speaks another MAJOR version of the protocol.
    #[snafu(display(
        "{what}: the agent speaks version {theirs} of its protocol, this program {}; start the machine again \
         to give it this program's agent",
        vmm_protocol::VERSION
    ))]
    OtherVersion {
        /// What was tried.
        what: &'static str,
        /// The agent's version.
        theirs: Version,
    },
    /// The agent is of an older program, which knows nothing of what was asked for.
    #[snafu(display(
        "{what}: the guest's agent is of an older vmm, which cannot do that; start the machine again to give it this \
         program's agent"
    ))]
    TooOld {
        /// What was tried.
        what: &'static str,
    },
    /// The agent's header breaks the protocol.
    #[snafu(display("{what}: the agent's answer breaks the protocol"))]
    BadHeader {
        /// What was tried.
        what: &'static str,
        /// How.
        source: HeaderError,
    },
    /// A frame from the agent breaks the protocol.
    #[snafu(display("{what}: the agent sent a frame that breaks the protocol"))]
    BadFrame {
        /// What was tried.
        what: &'static str,
        /// How.
        source: FrameError,
    },
    /// An archive from the agent breaks the protocol.
    #[snafu(display("{what}: the agent's archive did not come as it was sent"))]
    BadArchive {
        /// What was tried.
        what: &'static str,
        /// How.
        source: PieceError,
    },
    /// The agent answered something that does not belong to the question.
    #[snafu(display("{what}: the agent's answer does not belong to the question"))]
    Unexpected {
        /// What was tried.
        what: &'static str,
    },
    /// The request is larger than the protocol allows.
    #[snafu(display("{what}: the arguments and variables are too large"))]
    TooLarge {
        /// What was tried.
        what: &'static str,
        /// By how much.
        source: HeaderError,
    },
    /// The agent refused, and said why.
    #[snafu(display("{what}: {message}"))]
    Refusal {
        /// What was tried.
        what: &'static str,
        /// Why, for programs.
        kind: ErrorKind,
        /// Why, for people; printable.
        message: String,
    },
    /// The connection broke: the machine has ended, or its agent has.
    #[snafu(display("{what}: the connection to the agent broke"))]
    Lost {
        /// What was tried.
        what: &'static str,
    },
    /// The connection failed.
    #[snafu(display("{what}: the connection to the agent failed"))]
    Transfer {
        /// What was tried.
        what: &'static str,
        /// How.
        source: io::Error,
    },
    /// The process goes on without us: another client attached, or this one was asked to let go.
    #[snafu(display("detached from the process, which goes on"))]
    Detached,
    /// The thread that feeds the process could not be started.
    #[snafu(display("start a thread that feeds the process's standard input"))]
    Thread {
        /// Why.
        source: io::Error,
    },
}

impl AgentError {
    /// The agent's own reason, when it refused.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refusal { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the time was up.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }

    /// Whether the machine or its agent is gone, or was never there.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Refused { .. } | Self::Lost { .. } | Self::Transfer { .. }
        )
    }

    pub(super) fn from_header(what: &'static str, source: HeaderError) -> Self {
        match source {
            HeaderError::OtherVersion { theirs } => Self::OtherVersion { what, theirs },
            HeaderError::Closed => Self::Lost { what },
            HeaderError::Transfer { source } => Self::from_io(what, source),
            HeaderError::Encode { .. } => Self::TooLarge { what, source },
            source => Self::BadHeader { what, source },
        }
    }

    pub(super) fn from_io(what: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::TimedOut => Self::Deadline { what },
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Self::Lost { what }
            }
            _ => Self::Transfer { what, source },
        }
    }
}

impl From<AgentError> for io::Error {
    fn from(error: AgentError) -> Self {
        let kind = match error {
            AgentError::Deadline { .. } => io::ErrorKind::TimedOut,
            AgentError::Lost { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Text from the guest for a person's terminal: no control characters, no escape sequences, no novel.
pub(crate) fn printable(text: &str) -> String {
    const LIMIT: usize = 1000;
    let mut printable: String = text
        .chars()
        .take(LIMIT)
        .map(|character| match character {
            '\n' | '\t' => ' ',
            // Control characters of both sets, and those that turn the direction of the text around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect();
    if text.chars().nth(LIMIT).is_some() {
        printable.push('…');
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_guest_cannot_reach_into_the_terminal() {
        assert_eq!(
            printable("no\x1b[2Jclear\u{9b}31m\u{202e}x\r\n"),
            "no\u{fffd}[2Jclear\u{fffd}31m\u{fffd}x\u{fffd} "
        );
        assert_eq!(printable(&"é".repeat(2000)).chars().count(), 1001);
    }
}
