//! What the command line says when something went wrong: one line, with what to do, and the status.

use std::io::{self, Write};
use std::process::ExitCode;

use vmm::engine::EngineError;
use vmm::error_line;
use vmm::image::{ImageError, ImageRefError};
use vmm::kernels::KernelsError;
use vmm::project::ProjectError;

use crate::sanitise;

/// vmm's own failure.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Words of a guest's.
#[derive(Debug)]
struct Quoted {
    title: &'static str,
    text: String,
}

impl Quoted {
    fn console(text: &str) -> Self {
        Self { title: "the guest's last words on its console", text: text.to_owned() }
    }

    fn output(text: &str) -> Self {
        Self { title: "what it wrote", text: text.to_owned() }
    }
}

/// A failure that ends the command line.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    quoted: Option<Quoted>,
    status: u8,
}

impl Failure {
    /// Something was asked for that cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, quoted: None, status: FAILED }
    }

    /// Says what to do.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Leaves out what a guest wrote: it was shown already.
    pub(crate) fn without_quote(mut self) -> Self {
        self.quoted = None;
        self
    }

    /// Tells the user, and the shell.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = String::new();
        if let Some(Quoted { title, text: quoted }) = &self.quoted {
            text.push_str(&format!("vmm: {title}:\n"));
            for line in sanitise::text(quoted).lines() {
                text.push_str(&format!("  | {}\n", line.trim_end()));
            }
        }
        text.push_str(&format!("vmm: {}", sanitise::text(&self.message)));
        if let Some(hint) = &self.hint {
            let several_lines = self.message.contains('\n');
            text.push_str(if several_lines { "\nvmm: " } else { "; " });
            text.push_str(&sanitise::text(hint));
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
            quoted: error.console_tail().map(Quoted::console),
            message: error_line(&error),
            status,
        }
    }
}

impl From<ProjectError> for Failure {
    fn from(error: ProjectError) -> Self {
        let console = error.console_tail().map(Quoted::console);
        let quoted = console.or_else(|| error.output().map(Quoted::output));
        Self { hint: error.hint(), quoted, message: error_line(&error), status: FAILED }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        vmm::Error::from(error).into()
    }
}

impl From<KernelsError> for Failure {
    fn from(error: KernelsError) -> Self {
        vmm::Error::from(error).into()
    }
}

impl From<ImageRefError> for Failure {
    fn from(error: ImageRefError) -> Self {
        Self::usage(error_line(&error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { hint: error.hint(), ..Self::usage(error_line(&error)) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::usage(error_line(&error))
    }
}
