//! A command to run in a VM, described as `std::process::Command` describes one.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Link;
use super::process::{Output, Process};
use super::{CancelToken, Error, Sandbox};
use crate::agent::{
    AgentClient, AgentProcess, ByteString, OutputLimits, ProcessId, ProcessSpec, TerminalSize,
};

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
    argv: Vec<ByteString>,
    env: Vec<(ByteString, ByteString)>,
    workdir: Option<ByteString>,
    user: Option<String>,
    timeout: Option<Duration>,
    terminal: Option<TerminalSize>,
    stdin: Stdin,
    output_limit: usize,
    cancel: Option<CancelToken>,
}

/// Beyond a command's own timeout: the guest ends it by itself, this is for a guest that hangs.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(30);

/// No more of each output than this is collected, unless it is told otherwise.
pub(super) const DEFAULT_OUTPUT_LIMIT: usize = 16 << 20;

impl<'a> Command<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, argv: Vec<ByteString>) -> Self {
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
            cancel: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<ByteString>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, key: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Sets variables in its environment.
    pub fn envs<K: Into<ByteString>, V: Into<ByteString>>(
        mut self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env.extend(env.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The folder in the guest that it starts in; the user's own where none is given.
    pub fn workdir(mut self, folder: impl Into<ByteString>) -> Self {
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

    /// Cancelling this token ends [`Command::output`], and the command with everything that it started.
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Runs it to its end and collects what it writes.
    pub fn output(mut self) -> Result<Output, Error> {
        let input = match std::mem::take(&mut self.stdin) {
            Stdin::Bytes(bytes) => {
                self.stdin = Stdin::Piped;
                bytes
            }
            Stdin::Null | Stdin::Piped => Vec::new(),
        };
        let limits = OutputLimits { stdout: self.output_limit, stderr: self.output_limit };
        let deadline = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout.saturating_add(TIMEOUT_MARGIN)));
        let link = self.sandbox.link.clone();
        let cancel = self.cancel.clone();
        let client = link.agent()?;
        let collected =
            self.start(&client)?.collect(&input, limits, deadline, cancel.as_ref().map(AsFd::as_fd));
        let collected = collected.map_err(|error| match cancel {
            Some(token) if error.is_timeout() && token.is_cancelled() => Error::Cancelled,
            _ => link.explain(error, None),
        })?;
        Ok(Output {
            status: collected.exit.into(),
            truncated: collected.stdout_dropped > 0 || collected.stderr_dropped > 0,
            stdout: collected.stdout,
            stderr: collected.stderr,
        })
    }

    /// Starts it, to be talked to while it runs.
    pub fn spawn(mut self) -> Result<Process, Error> {
        let link = self.sandbox.link.clone();
        let terminal = self.terminal.is_some();
        let input = match std::mem::take(&mut self.stdin) {
            Stdin::Bytes(bytes) => {
                self.stdin = Stdin::Piped;
                Some(bytes)
            }
            other => {
                self.stdin = other;
                None
            }
        };
        // Nobody knows how long its handle is held.
        let client = link.agent()?.keeping_none();
        let mut process = Process::new(self.start(&client)?, link, terminal);
        if let Some(bytes) = input
            && let Some(stdin) = process.stdin.take()
        {
            feed(bytes, stdin)?;
        }
        Ok(process)
    }

    /// Starts it and leaves it to itself; [`Sandbox::attach_process`] finds it again by its id.
    pub fn start_detached(self) -> Result<ProcessId, Error> {
        let (link, program) = self.context();
        let spec = self.spec();
        let client = link.agent()?;
        client.start_detached(&spec).map_err(|error| link.explain(error, program.as_deref()))
    }

    fn start(self, client: &AgentClient) -> Result<AgentProcess, Error> {
        let (link, program) = self.context();
        let spec = self.spec().kill_on_disconnect();
        client.start(&spec).map_err(|error| link.explain(error, program.as_deref()))
    }

    fn context(&self) -> (Arc<Link>, Option<String>) {
        let program = self.argv.first().map(|program| program.to_string_lossy().into_owned());
        (self.sandbox.link.clone(), program)
    }

    fn spec(self) -> ProcessSpec {
        let mut spec = ProcessSpec::command(self.argv);
        for (key, value) in self.env {
            spec = spec.environment(key, value);
        }
        if let Some(folder) = self.workdir {
            spec = spec.working_directory(folder);
        }
        if let Some(user) = self.user {
            spec = spec.user(user);
        }
        if let Some(size) = self.terminal {
            spec = spec.terminal(size);
        }
        if let Some(timeout) = self.timeout {
            spec = spec.timeout(timeout);
        }
        if self.stdin != Stdin::Null { spec.stdin() } else { spec }
    }
}

/// Writes the whole input from a thread of its own, for the process may write before it reads.
fn feed(bytes: Vec<u8>, mut stdin: crate::agent::ProcessStdin) -> Result<(), Error> {
    use std::io::Write;
    let feed = move || {
        // A process may end before it has read everything: that is its own affair.
        let _ = stdin.write_all(&bytes);
    };
    let thread = std::thread::Builder::new().name("vmm-stdin".to_owned()).spawn(feed);
    thread
        .map(drop)
        .map_err(|source| Error::System { what: "start a thread that feeds the command".to_owned(), source })
}
