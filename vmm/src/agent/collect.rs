//! All output of a process in memory, up to a limit.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Instant;

use snafu::ResultExt;
use vmm_protocol::Exit;

use super::error::ThreadSnafu;
use super::{AgentError, AgentProcess, Output};

/// How much output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes of standard output.
    pub stdout: usize,
    /// Bytes of standard error.
    pub stderr: usize,
}

impl Default for OutputLimits {
    /// 16 MiB of each.
    fn default() -> Self {
        Self { stdout: 16 << 20, stderr: 16 << 20 }
    }
}

/// What a process wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The start of its standard output.
    pub stdout: Vec<u8>,
    /// The start of its standard error.
    pub stderr: Vec<u8>,
    /// Bytes of standard output beyond the limit, which were dropped.
    pub stdout_dropped: u64,
    /// Bytes of standard error beyond the limit, which were dropped.
    pub stderr_dropped: u64,
    /// How it ended.
    pub exit: Exit,
}

/// The end of what a process wrote so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessTail {
    /// The end of its standard output, or of what its terminal showed.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: Vec<u8>,
    /// How many bytes of standard output and of standard error came before that.
    pub dropped: (u64, u64),
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// More than this of a tail is not the agent's to keep.
const LONGEST_TAIL: usize = 4 << 20;

impl AgentProcess {
    /// Reads all that comes until the agent ends it.
    pub(super) fn tail(mut self, deadline: Option<Instant>) -> Result<ProcessTail, AgentError> {
        let (mut stdout, mut stderr) = (Kept::new(LONGEST_TAIL), Kept::new(LONGEST_TAIL));
        let exit = loop {
            match self.next_output(deadline, None) {
                Ok(Output::Stdout(bytes)) => stdout.add(&bytes),
                Ok(Output::Stderr(bytes)) => stderr.add(&bytes),
                Ok(Output::Exit(exit)) => break Some(exit),
                Err(AgentError::Detached) => break None,
                Err(error) => return Err(error),
            }
        };
        Ok(ProcessTail { stdout: stdout.bytes, stderr: stderr.bytes, dropped: self.replay_starts_at(), exit })
    }

    /// Feeds the process, and collects what it writes until it ends. Output beyond the limits is dropped and counted;
    /// the process goes on. It ends when the time is up, at the deadline or because `cancel` can be read.
    pub fn collect(
        mut self,
        stdin: &[u8],
        limits: OutputLimits,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Collected, AgentError> {
        if stdin.is_empty() {
            self.end_own_stdin();
            let collected = self.gather(limits, deadline, cancel)?;
            self.give_back();
            return Ok(collected);
        }
        let Some(mut input) = self.take_stdin() else { return self.gather(limits, deadline, cancel) };
        let closer = self.closer();
        thread::scope(|scope| {
            let feed = move || {
                // A process may end, or close its input, before it has read everything: that is its own affair.
                if input.write_all(stdin).is_ok() {
                    let _ = input.finish();
                }
            };
            thread::Builder::new()
                .name("agent-stdin".into())
                .spawn_scoped(scope, feed)
                .context(ThreadSnafu)?;
            let collected = self.gather(limits, deadline, cancel);
            // Lets go a feeder that waits for a process which no longer reads.
            closer.close();
            collected
        })
    }

    fn gather(
        &mut self,
        limits: OutputLimits,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Collected, AgentError> {
        let mut stdout = Kept::new(limits.stdout);
        let mut stderr = Kept::new(limits.stderr);
        let exit = loop {
            match self.next_output(deadline, cancel)? {
                Output::Stdout(bytes) => stdout.add(&bytes),
                Output::Stderr(bytes) => stderr.add(&bytes),
                Output::Exit(exit) => break exit,
            }
        };
        Ok(Collected {
            stdout: stdout.bytes,
            stderr: stderr.bytes,
            stdout_dropped: stdout.dropped,
            stderr_dropped: stderr.dropped,
            exit,
        })
    }
}

struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    dropped: u64,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, dropped: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.limit - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..length]);
        self.dropped += (bytes.len() - length) as u64;
    }
}
