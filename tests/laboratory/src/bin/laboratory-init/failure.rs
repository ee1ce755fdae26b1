//! What went wrong, with what was tried: all that can be said of it goes to the console or over the channel.

use std::fmt;

/// Ends the laboratory.
#[derive(Debug)]
pub(crate) struct Failure(String);

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds to an error what was tried.
pub(crate) trait Context<T> {
    fn context(self, tried: &str) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: &str) -> Result<T> {
        self.map_err(|error| Failure(format!("cannot {tried}: {error}")))
    }
}
