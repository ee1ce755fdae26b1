//! A process in the guest to whose input and output we are attached.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use vmm_protocol::{
    Exit, FRAME_HEADER_SIZE, FrameHeader, FrameKind, MAX_FRAME, ProcessId, Signal, SignalTarget, TerminalSize,
};

use super::demultiplexer::{Available, Channel, Demultiplexer, Ending};
use super::{AgentClient, AgentError};

/// A process in the guest. While we read slowly it waits.
///
/// Dropping it, and the outputs taken from it, closes the connection: the process goes on, or is ended if that was
/// asked for. If we started it, and nobody took its standard input, that ends too; [`detach`](Self::detach) leaves it
/// open for who attaches next.
pub struct AgentProcess {
    client: AgentClient,
    process: ProcessId,
    pid: Option<u32>,
    stream: Arc<UnixStream>,
    output: Arc<Demultiplexer>,
    stdin: Input,
    stdout: Option<ProcessOutput>,
    stderr: Option<ProcessOutput>,
    replay: (u64, u64),
    /// The agent waits for another request when the process has ended.
    is_kept: bool,
}

/// What we have of a process's standard input.
enum Input {
    /// Nothing, or it was taken.
    None,
    /// It is ours alone and ends with us.
    Ours(ProcessStdin),
    /// Others fed it before, and may after us: it ends only when we say so.
    Shared,
}

/// What a process brings, in the order in which it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// Its end, after all of its output.
    Exit(Exit),
}

impl AgentProcess {
    pub(super) fn new(client: AgentClient, stream: UnixStream, process: ProcessId) -> Self {
        let stream = Arc::new(stream);
        let output = Arc::new(Demultiplexer::new(stream.clone()));
        let half = |channel| Some(ProcessOutput { channel, output: output.clone() });
        let (stdout, stderr) = (half(Channel::Stdout), half(Channel::Stderr));
        Self {
            client,
            process,
            pid: None,
            stream,
            output,
            stdin: Input::None,
            stdout,
            stderr,
            replay: (0, 0),
            is_kept: false,
        }
    }

    pub(super) fn started(self, pid: u32, stdin: bool, is_kept: bool) -> Self {
        let stdin = if stdin { Input::Ours(self.input()) } else { Input::None };
        Self { pid: Some(pid), stdin, is_kept, ..self }
    }

    pub(super) fn attached(self, stdin: bool, replay: (u64, u64)) -> Self {
        let stdin = if stdin { Input::Shared } else { Input::None };
        Self { stdin, replay, ..self }
    }

    /// Its end was read: the client may ask again on its connection, if nobody else has it.
    pub(super) fn give_back(self) {
        let Self { client, stream, output, stdin, stdout, stderr, is_kept, .. } = self;
        if !is_kept {
            return;
        }
        drop((stream, stdin, stdout, stderr));
        match Arc::into_inner(output).and_then(Demultiplexer::into_stream).map(Arc::try_unwrap) {
            Some(Ok(stream)) => client.keep(stream),
            // Whoever could close it may yet do so.
            Some(Err(shared)) => drop(shared.shutdown(std::net::Shutdown::Both)),
            None => {}
        }
    }

    /// Ends the input of a process that we started, if nobody took it.
    pub(super) fn end_own_stdin(&mut self) {
        if matches!(self.stdin, Input::Ours(_)) {
            self.stdin = Input::None;
        }
    }

    fn input(&self) -> ProcessStdin {
        ProcessStdin { stream: self.stream.clone(), ended: false }
    }

    /// Its name for requests.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.process
    }

    /// Its number in the guest, if we started it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// How many bytes of standard output and standard error came before the first that we get.
    #[must_use]
    pub fn replay_starts_at(&self) -> (u64, u64) {
        self.replay
    }

    /// The way to its standard input, once.
    pub fn take_stdin(&mut self) -> Option<ProcessStdin> {
        match std::mem::replace(&mut self.stdin, Input::None) {
            Input::None => None,
            Input::Ours(stdin) => Some(stdin),
            Input::Shared => Some(self.input()),
        }
    }

    /// Its standard output (or its terminal's), once.
    pub fn take_stdout(&mut self) -> Option<ProcessOutput> {
        self.stdout.take()
    }

    /// Its standard error, once.
    pub fn take_stderr(&mut self) -> Option<ProcessOutput> {
        self.stderr.take()
    }

    /// Whatever it brings next, in order, for those who read both streams on one thread. Not to be mixed with
    /// [`take_stdout`](Self::take_stdout) and [`take_stderr`](Self::take_stderr): bytes would go to either.
    /// The time is up at the deadline, and when `cancel` can be read; then nothing is lost of what comes.
    pub fn next_output(
        &mut self,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Output, AgentError> {
        match self.output.next(deadline, cancel)? {
            Available::Data(Channel::Stdout, bytes) => Ok(Output::Stdout(bytes)),
            Available::Data(Channel::Stderr, bytes) => Ok(Output::Stderr(bytes)),
            Available::End(ending) => end(ending).map(Output::Exit),
        }
    }

    /// Waits for its end. The input of a process that we started ends, as nobody feeds it. Outputs that were not taken are dropped; those that were must be read, or it may never end.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<Exit, AgentError> {
        self.end_own_stdin();
        self.stdout = None;
        self.stderr = None;
        end(self.output.ending(deadline)?)
    }

    /// Lets it go on without us, as it is, whatever was to happen when we are gone.
    pub fn detach(mut self) -> Result<(), AgentError> {
        if let Input::Ours(stdin) = &mut self.stdin {
            stdin.ended = true;
        }
        self.client.detach(self.process)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal, target: SignalTarget) -> Result<(), AgentError> {
        self.client.signal(self.process, signal, target)
    }

    /// Changes the size of its terminal.
    pub fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        self.client.resize(self.process, size)
    }

    /// The client that reaches it.
    #[must_use]
    pub fn client(&self) -> &AgentClient {
        &self.client
    }

    /// What ends the connection from another thread.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer { stream: self.stream.clone() }
    }
}

impl fmt::Debug for AgentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentProcess").field("process", &self.process).field("pid", &self.pid).finish()
    }
}

fn end(ending: Ending) -> Result<Exit, AgentError> {
    match ending {
        Ending::Exit(exit) => Ok(exit),
        Ending::Detached => Err(AgentError::Detached),
        Ending::Broken => Err(AgentError::Lost { what: "wait for a process" }),
    }
}

/// Ends a connection to a process from another thread: every read and write on it returns.
#[derive(Clone, Debug)]
pub struct Closer {
    stream: Arc<UnixStream>,
}

impl Closer {
    /// Ends the connection. It may have ended already.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// An output stream of a process. Dropping it drops what comes.
pub struct ProcessOutput {
    channel: Channel,
    output: Arc<Demultiplexer>,
}

impl Read for ProcessOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.output.read(self.channel, buffer)?)
    }
}

impl Drop for ProcessOutput {
    fn drop(&mut self) {
        self.output.forget(self.channel);
    }
}

impl fmt::Debug for ProcessOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProcessOutput").field(&self.channel).finish()
    }
}

/// The way to a process's standard input. A write waits while the process does not read. Dropping it ends the input
/// (on a terminal: as Ctrl-D does).
#[derive(Debug)]
pub struct ProcessStdin {
    stream: Arc<UnixStream>,
    ended: bool,
}

impl ProcessStdin {
    /// Ends the input, and says whether that went well.
    pub fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.send(FrameKind::StdinEnd, &[])
    }

    /// Sends a whole frame: one that stays in pieces would break the protocol.
    fn send(&self, kind: FrameKind, data: &[u8]) -> io::Result<()> {
        let header = FrameHeader::new(kind, data.len()).to_bytes();
        let mut sent = 0;
        while sent < FRAME_HEADER_SIZE + data.len() {
            let rest = [
                IoSlice::new(header.get(sent..).unwrap_or_default()),
                IoSlice::new(&data[sent.saturating_sub(FRAME_HEADER_SIZE)..]),
            ];
            let flags = SendFlags::NOSIGNAL;
            sent += rustix::io::retry_on_intr(|| {
                sendmsg(&*self.stream, &rest, &mut SendAncillaryBuffer::default(), flags)
            })?;
        }
        Ok(())
    }
}

impl Write for ProcessStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(MAX_FRAME);
        if length > 0 {
            self.send(FrameKind::Stdin, &bytes[..length])?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ProcessStdin {
    fn drop(&mut self) {
        // A process that has ended, or lost us, needs no end of its input.
        let _ = self.end();
    }
}
