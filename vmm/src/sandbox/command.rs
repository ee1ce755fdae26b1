//! A command to run in a VM, described as `std::process::Command` describes one.

use std::time::Duration;

use super::process::{Output, Process, ProcessId, TerminalSize};
use super::{Error, Sandbox};

/// What a command reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: the end of the input at once.
    #[default]
    Null,
    /// What is written to [`Process::stdin`].
    Piped,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A command to run in a VM.
///
/// ```no_run
/// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
/// let output = sandbox.command(["sh", "-c", "echo $GREETING"]).env("GREETING", "hello").output()?;
/// assert_eq!(output.stdout, b"hello\n");
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a command does nothing until it is run"]
pub struct Command<'a> {
    sandbox: &'a Sandbox,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    workdir: Option<String>,
    user: Option<String>,
    timeout: Option<Duration>,
    terminal: Option<TerminalSize>,
    stdin: Stdin,
    output_limit: usize,
}

/// No more of each output than this is collected, unless it is told otherwise.
pub(super) const DEFAULT_OUTPUT_LIMIT: usize = 16 << 20;

impl<'a> Command<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, argv: Vec<String>) -> Self {
        Self {
            sandbox,
            argv,
            env: Vec::new(),
            workdir: None,
            user: None,
            timeout: None,
            terminal: None,
            stdin: Stdin::Null,
            output_limit: DEFAULT_OUTPUT_LIMIT,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Sets variables in its environment.
    pub fn envs<K: Into<String>, V: Into<String>>(mut self, env: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env.extend(env.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The folder in the guest that it starts in; the user's own where none is given.
    pub fn workdir(mut self, folder: impl Into<String>) -> Self {
        self.workdir = Some(folder.into());
        self
    }

    /// The user that it runs as: a name or a number, perhaps with a group (`nobody`, `1000:1000`). Root where none
    /// is given.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Kills it, and everything that it started, after so long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Gives it a terminal of this size. Its output is then one stream.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// What it reads; nothing where nothing is said.
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// The most bytes that [`Command::output`] keeps of each of its outputs; 16 MiB where nothing is said.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Runs it to its end and collects what it writes.
    pub fn output(self) -> Result<Output, Error> {
        let _ = self.sandbox;
        Err(Error::Unfinished)
    }

    /// Starts it, to be talked to while it runs.
    pub fn spawn(self) -> Result<Process, Error> {
        Err(Error::Unfinished)
    }

    /// Starts it and leaves it to itself; it is found again by its id.
    pub fn start_detached(self) -> Result<ProcessId, Error> {
        Err(Error::Unfinished)
    }
}
