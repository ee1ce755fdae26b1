//! What can come between a benchmark and its figures.

use std::fmt;
use std::time::Duration;

/// Why there is no measurement.
#[derive(Debug)]
pub enum Trouble {
    /// Whoever runs the benchmarks gave up.
    Cancelled,
    /// It did not come in time.
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// A program ended that should have gone on, or with a status that it should not have.
    Crashed {
        /// The program.
        what: String,
        /// How it ended.
        how: String,
        /// What it said last.
        said: String,
    },
    /// There is no such thing with this subject.
    Unsupported(&'static str),
    /// Something else failed.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::TimedOut { what, after } => {
                write!(f, "{what} did not come within {:.0} s; it was killed", after.as_secs_f64())
            }
            Self::Crashed { what, how, said } if said.is_empty() => write!(f, "{what} ended: {how}"),
            Self::Crashed { what, how, said } => write!(f, "{what} ended: {how}; it said: {said}"),
            Self::Unsupported(why) => f.write_str(why),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<vmm::Error> for Trouble {
    fn from(error: vmm::Error) -> Self {
        match error {
            vmm::Error::Cancelled => Self::Cancelled,
            error => Self::Failed(vmm::error_line(&error)),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
