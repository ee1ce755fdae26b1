//! What is said about processes: their names, sizes of their terminals, signals to them, their ends.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// The name of a process that the agent started. Never used twice while the agent lives, unlike a process number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Its lines.
    pub rows: u16,
    /// Its characters in a line.
    pub columns: u16,
}

/// A signal by its number in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Signal(u8);

impl Signal {
    /// The terminal is gone.
    pub const HANGUP: Self = Self(1);
    /// Ctrl-C.
    pub const INTERRUPT: Self = Self(2);
    /// Ctrl-\.
    pub const QUIT: Self = Self(3);
    /// The end that nothing escapes.
    pub const KILL: Self = Self(9);
    /// Nobody reads any more.
    pub const PIPE: Self = Self(13);
    /// The end that may be prepared.
    pub const TERMINATE: Self = Self(15);

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

/// A number that no signal of Linux has.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSignal(u8);

impl fmt::Display for NoSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no signal {}: they are numbered from 1 to 64", self.0)
    }
}

impl std::error::Error for NoSignal {}

impl TryFrom<u8> for Signal {
    type Error = NoSignal;

    fn try_from(number: u8) -> Result<Self, NoSignal> {
        if (1..=64).contains(&number) { Ok(Self(number)) } else { Err(NoSignal(number)) }
    }
}

impl From<Signal> for u8 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    /// The process alone.
    Process,
    /// Its process group, as a terminal's Ctrl-C would.
    #[default]
    Group,
    /// It and all that it started, whatever group or session they are in.
    All,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// By itself or by a signal.
    pub outcome: Outcome,
    /// The agent ended it because its time was up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

/// What `wait` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It exited with this status.
    Code(u8),
    /// It was ended by this signal.
    Signal(Signal),
}

impl Exit {
    /// Whether it ended by itself, in time, with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.outcome == Outcome::Code(0) && !self.timed_out
    }

    /// The status a shell would show: its own, 128 and the signal's number, or 124 when its time was up.
    #[must_use]
    pub fn shell_status(&self) -> u8 {
        match self.outcome {
            _ if self.timed_out => 124,
            Outcome::Code(code) => code,
            Outcome::Signal(signal) => 128 + signal.number(),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            _ if self.timed_out => f.write_str("was ended because its time was up"),
            Outcome::Code(code) => write!(f, "exited with status {code}"),
            Outcome::Signal(signal) => write!(f, "was ended by signal {}", signal.number()),
        }
    }
}

/// A process in the agent's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its name.
    pub process: ProcessId,
    /// Its number in the guest, while it runs.
    pub pid: u32,
    /// The command; a long one is cut.
    pub argv: Vec<ByteString>,
    /// The user it was started as.
    pub uid: u32,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether a client reads its output.
    pub attached: bool,
    /// When it was started, on the guest's monotonic clock.
    pub started_ms: u64,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_what_a_shell_would_show() {
        let exit = |outcome, timed_out| Exit { outcome, timed_out }.shell_status();
        assert_eq!(exit(Outcome::Code(7), false), 7);
        assert_eq!(exit(Outcome::Signal(Signal::KILL), false), 137);
        assert_eq!(exit(Outcome::Signal(Signal::KILL), true), 124);
        assert_eq!(exit(Outcome::Code(0), true), 124);
    }

    #[test]
    fn a_signal_that_does_not_exist_is_refused() {
        for number in [0, 65, 255] {
            assert_eq!(Signal::try_from(number), Err(NoSignal(number)));
            assert!(serde_json::from_str::<Signal>(&number.to_string()).is_err());
        }
        assert_eq!(serde_json::from_str::<Signal>("64").unwrap().number(), 64);
    }
}
