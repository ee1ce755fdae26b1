//! A process in a VM, seen from the host.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::link::Link;
use super::{CancelToken, Error};
use crate::agent::{
    self, AgentClient, AgentProcess, Exit, Outcome, ProcessId, ProcessOutput, ProcessStdin, Signal,
    SignalTarget, TerminalSize,
};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Signaled(u8),
    /// It was killed because its time was up.
    TimedOut,
}

impl ExitStatus {
    /// Whether it exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The status that a shell gives it: its code, 128 and the signal's number, 124 for a timeout.
    pub fn shell_status(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128u8.saturating_add(signal),
            Self::TimedOut => 124,
        }
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        match exit.outcome {
            _ if exit.timed_out => Self::TimedOut,
            Outcome::Code(code) => Self::Exited(code),
            Outcome::Signal(signal) => Self::Signaled(signal.number()),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("killed, for its time was up"),
        }
    }
}

/// What a process brings, in the order in which it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// Its end, after all of its output.
    Ended(ExitStatus),
}

/// What a finished process wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// More was written than the limit allowed; the rest was read and dropped.
    pub truncated: bool,
}

/// A process that runs in a VM. Its streams can be sent to other threads.
///
/// What it writes is held back when nobody reads it, as with a pipe: nothing piles up, the process waits. Dropping
/// it with its streams ends the process in the guest, unless it was started to outlive that.
///
/// ```no_run
/// use std::io::{Read, Write};
/// use vmm::{Sandbox, Stdin};
///
/// let sandbox = Sandbox::builder("alpine").start()?;
/// let mut process = sandbox.command(["sha256sum"]).stdin(Stdin::Piped).spawn()?;
/// if let Some(mut stdin) = process.stdin.take() {
///     stdin.write_all(b"hello")?; // and dropped: the end of the input
/// }
/// let mut digest = String::new();
/// if let Some(mut stdout) = process.stdout.take() {
///     stdout.read_to_string(&mut digest)?;
/// }
/// assert!(process.wait()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Process {
    /// Its standard input, if that is piped. Dropping it is the end of the input.
    pub stdin: Option<ProcessStdin>,
    /// Its standard output; of a process on a terminal, all of its output.
    pub stdout: Option<ProcessOutput>,
    /// Its standard error; none on a terminal.
    pub stderr: Option<ProcessOutput>,
    terminal: bool,
    process: AgentProcess,
    control: ProcessControl,
}

impl Process {
    pub(super) fn new(mut process: AgentProcess, link: Arc<Link>, terminal: bool) -> Self {
        let control = ProcessControl { id: process.id(), client: process.client().clone(), link };
        let stderr = process.take_stderr().filter(|_| !terminal);
        Self {
            stdin: process.take_stdin(),
            stdout: process.take_stdout(),
            stderr,
            terminal,
            process,
            control,
        }
    }

    /// Its id. It outlives the connection: see [`Sandbox::attach_process`](super::Sandbox::attach_process).
    pub fn id(&self) -> ProcessId {
        self.control.id
    }

    /// Whether it is on a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A handle to signal and resize it from another thread.
    pub fn control(&self) -> ProcessControl {
        self.control.clone()
    }

    /// What it brings next of either output, or its end, for those who read both on one thread; not for those who read
    /// [`stdout`](Self::stdout) or [`stderr`](Self::stderr) themselves. The time is up at the deadline
    /// ([`Error::is_timeout`]), and nothing is lost then. `cancel` ends the wait, not the process.
    pub fn next_event(
        &mut self,
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> Result<ProcessEvent, Error> {
        match self.process.next_output(deadline, cancel.map(AsFd::as_fd)) {
            Ok(agent::Output::Stdout(bytes)) => Ok(ProcessEvent::Stdout(bytes)),
            Ok(agent::Output::Stderr(bytes)) => Ok(ProcessEvent::Stderr(bytes)),
            Ok(agent::Output::Exit(exit)) => Ok(ProcessEvent::Ended(exit.into())),
            Err(error) if error.is_timeout() && cancel.is_some_and(CancelToken::is_cancelled) => {
                Err(Error::Cancelled)
            }
            Err(error) => Err(self.control.link.explain(error, None)),
        }
    }

    /// Waits until it has ended. Standard input is closed first; output that nobody took is dropped. Output that was
    /// taken must be read meanwhile, or the process may wait for that forever.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.stdin = None;
        self.stdout = None;
        self.stderr = None;
        match self.process.wait(None) {
            Ok(exit) => Ok(exit.into()),
            Err(error) => Err(self.control.link.explain(error, None)),
        }
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.control.signal(signal)
    }

    /// Tells it that its terminal has another size now.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.control.resize(size)
    }

    /// Lets it run on by itself.
    pub fn detach(self) -> Result<ProcessId, Error> {
        self.control.detach()?;
        Ok(self.id())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.process.fmt(f)
    }
}

/// Signals, resizes and lets go of a process; can be cloned and sent.
#[derive(Clone, Debug)]
pub struct ProcessControl {
    id: ProcessId,
    client: AgentClient,
    link: Arc<Link>,
}

impl ProcessControl {
    /// Sends a signal to its process group.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let sent = self.client.signal(self.id, signal, SignalTarget::Group);
        sent.map_err(|error| self.link.explain(error, None))
    }

    /// Tells it that its terminal has another size now.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.client.resize(self.id, size).map_err(|error| self.link.explain(error, None))
    }

    /// Lets go of whoever is attached to it; it runs on by itself. Their outputs end, and [`Process::wait`] fails with an
    /// error that [`is_detached`](Error::is_detached).
    pub fn detach(&self) -> Result<(), Error> {
        self.client.detach(self.id).map_err(|error| self.link.explain(error, None))
    }
}
