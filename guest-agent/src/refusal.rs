//! Why a request is not done, as the client is told.

use std::fmt;

use vmm_protocol::{Answer, ErrorKind};

/// A request that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub kind: ErrorKind,
    /// Why, for people.
    pub message: String,
}

impl Refusal {
    /// Makes one.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The system would not do something.
    pub fn system(kind: ErrorKind, what: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self::new(kind, format!("{what}: {cause}"))
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Error { kind: refusal.kind, message: refusal.message }
    }
}
