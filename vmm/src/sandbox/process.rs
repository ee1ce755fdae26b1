//! A process in a VM, seen from the host.

use std::io::{self, Read, Write};

use super::Error;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
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
            Self::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signaled(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
            Self::TimedOut => 124,
        }
    }
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

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A process's id: the agent's, unique in the VM's run. It outlives the connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId(pub(crate) String);

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process that runs in a VM. Its streams can be sent to other threads.
///
/// What it writes is held back when nobody reads it, as with a pipe: nothing piles up. Dropping it closes the
/// streams and leaves the process to itself, which the guest then hangs up as a terminal would.
pub struct Process {
    /// Its standard input, unless none was asked for. Dropping it is the end of the input.
    pub stdin: Option<ProcessStdin>,
    /// Its standard output; of a process on a terminal, all of its output.
    pub stdout: Option<ProcessOutput>,
    /// Its standard error; none on a terminal.
    pub stderr: Option<ProcessOutput>,
    control: ProcessControl,
}

impl Process {
    /// Its id.
    pub fn id(&self) -> &ProcessId {
        &self.control.id
    }

    /// A handle to signal and resize it from another thread.
    pub fn control(&self) -> ProcessControl {
        self.control.clone()
    }

    /// Waits until it has ended and closed its streams. Standard input is closed first; output that nobody took
    /// is dropped.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        Err(Error::Unfinished)
    }

    /// Lets it run on by itself and returns its id, with which [`Sandbox::attach_process`](super::Sandbox) finds it.
    pub fn detach(self) -> Result<ProcessId, Error> {
        Err(Error::Unfinished)
    }
}

/// Signals and resizes a process; can be cloned and sent.
#[derive(Clone, Debug)]
pub struct ProcessControl {
    id: ProcessId,
}

impl ProcessControl {
    /// Sends a signal (its number on Linux) to the process group.
    pub fn signal(&self, _signal: i32) -> Result<(), Error> {
        Err(Error::Unfinished)
    }

    /// Tells it that its terminal has another size now.
    pub fn resize(&self, _size: TerminalSize) -> Result<(), Error> {
        Err(Error::Unfinished)
    }
}

/// The input of a process. Dropping it is the end of the input.
pub struct ProcessStdin(());

impl Write for ProcessStdin {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output of a process.
pub struct ProcessOutput(());

impl Read for ProcessOutput {
    fn read(&mut self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
