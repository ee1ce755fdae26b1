//! Everything that can go wrong, with a stable code and a hint.

use snafu::Snafu;

use crate::home::{End, HomeError};

/// Why something could not be done. [`Error::code`] is stable; the text is for people.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum Error {
    /// The home, or a VM in it.
    #[snafu(context(false), display("{source}"))]
    Home {
        /// The cause.
        #[snafu(source)]
        source: HomeError,
    },
    /// What was asked for cannot be.
    #[snafu(display("{message}"))]
    Invalid {
        /// What is wrong with it, and what would do.
        message: String,
    },
    /// The `vmm` executable, which is the monitor process, was not found.
    #[snafu(display("cannot find the vmm executable that runs the VM"))]
    NoMonitor,
    /// The start was cancelled; nothing is left of it.
    #[snafu(display("cancelled"))]
    Cancelled,
    /// The VM ended, or did not start.
    #[snafu(display("{}", end.message))]
    Ended {
        /// How.
        end: Box<End>,
    },
    /// The VM does not run.
    #[snafu(display("the VM {name} is not running"))]
    NotRunning {
        /// The VM.
        name: String,
    },
    /// The VM runs already.
    #[snafu(display("the VM {name} is running already"))]
    AlreadyRunning {
        /// The VM.
        name: String,
    },
    /// The guest has no such program.
    #[snafu(display("{program}: not found in the guest"))]
    CommandNotFound {
        /// What was to run.
        program: String,
    },
    /// The guest cannot execute it.
    #[snafu(display("{program}: cannot be executed in the guest: {reason}"))]
    CommandNotExecutable {
        /// What was to run.
        program: String,
        /// Why.
        reason: String,
    },
    /// Not built yet.
    #[snafu(display("this is being built"))]
    Unfinished,
}

impl Error {
    /// A stable word for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Home { source } => source.code(),
            Self::Invalid { .. } => "invalid",
            Self::NoMonitor => "no_monitor",
            Self::Cancelled => "cancelled",
            Self::Ended { end } => end.reason.code(),
            Self::NotRunning { .. } => "not_running",
            Self::AlreadyRunning { .. } => "already_running",
            Self::CommandNotFound { .. } => "command_not_found",
            Self::CommandNotExecutable { .. } => "command_not_executable",
            Self::Unfinished => "unfinished",
        }
    }

    /// What to do about it, in a sentence or a command.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home { source } => source.hint(),
            Self::NoMonitor => {
                Some("put it beside your program or on PATH, or name it by VMM_BIN".to_owned())
            }
            Self::Ended { end } => end.hint.clone(),
            Self::NotRunning { name } => Some(format!("start it: vmm start {name}")),
            _ => None,
        }
    }

    /// The last lines of the guest's console, where they say something about it.
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Self::Ended { end } if !end.console_tail.is_empty() => Some(&end.console_tail),
            _ => None,
        }
    }
}
