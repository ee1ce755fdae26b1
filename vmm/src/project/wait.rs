//! Waiting that can be cancelled.

use std::time::Duration;

use super::ProjectError;
use crate::sandbox::CancelToken;

/// Waits, until it is cancelled.
pub(super) struct Waiter<'a> {
    token: &'a CancelToken,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(token: &'a CancelToken) -> Self {
        Self { token }
    }

    pub(super) fn token(&self) -> &'a CancelToken {
        self.token
    }

    /// Fails where it was cancelled.
    pub(super) fn check(&self) -> Result<(), ProjectError> {
        if self.token.is_cancelled() { Err(ProjectError::Cancelled) } else { Ok(()) }
    }

    /// Waits for so long.
    pub(super) fn wait(&self, span: Duration) -> Result<(), ProjectError> {
        let waited = self.token.wait_for(span);
        waited.map_err(|source| ProjectError::System { what: "wait".to_owned(), source })?;
        self.check()
    }
}
