//! What the command line says when something went wrong: one line, with what to do, and the status.

use std::io::{self, Write};
use std::process::ExitCode;

use vmm::image::{ImageError, ImageRefError};

use crate::sanitise;

/// vmm's own failure.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A failure that ends the command line.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    console: Option<String>,
    status: u8,
}

impl Failure {
    /// Something was asked for that cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, console: None, status: FAILED }
    }

    /// Says what to do.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the user, and the shell.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = String::new();
        if let Some(console) = &self.console {
            text.push_str("vmm: the guest's last words on its console:\n");
            for line in sanitise::text(console).lines() {
                text.push_str(&format!("  | {}\n", line.trim_end()));
            }
        }
        text.push_str(&format!("vmm: {}", sanitise::text(&self.message)));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("; {hint}"));
        }
        text.push('\n');
        // Standard error may be gone; the status still says it.
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.status)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&sanitise::text(&self.message))
    }
}

impl From<vmm::Error> for Failure {
    fn from(error: vmm::Error) -> Self {
        let status = match &error {
            vmm::Error::CommandNotFound { .. } => NOT_FOUND,
            vmm::Error::CommandNotExecutable { .. } => NOT_EXECUTABLE,
            _ => FAILED,
        };
        Self {
            hint: error.hint(),
            console: error.console_tail().map(str::to_owned),
            message: chain(&error),
            status,
        }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<ImageRefError> for Failure {
    fn from(error: ImageRefError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::usage(chain(&error))
    }
}

/// An error and all its causes in one line; a cause whose text the error above it already ends with is not repeated.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
