//! Takes a process's frames apart into its two output streams and its end, for readers on several threads.
//!
//! There is no thread of its own: whichever reader finds nothing for itself reads the socket for all. What belongs to
//! the other stream waits in a queue of bounded size; when that is full nothing more is read, the socket fills, and
//! the process in the guest waits.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vmm_protocol::{Exit, FRAME_HEADER_SIZE, FrameHeader, FrameKind, MAX_EXIT_FRAME, header};

use super::AgentError;
use super::connect::Timed;

const WHAT: &str = "read a process's output";

/// How much of one stream waits while the other is read.
const QUEUE_LIMIT: usize = 256 * 1024;

/// How much is read from the socket at once.
const BUFFER_SIZE: usize = 64 * 1024;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
}

/// How the frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Exit(Exit),
    Detached,
    /// Whoever saw it happen got the error itself.
    Broken,
}

/// What of the streams is there.
#[derive(Debug)]
pub(super) enum Available {
    Data(Channel, Vec<u8>),
    End(Ending),
}

pub(super) struct Demultiplexer {
    stream: Arc<UnixStream>,
    /// The stream is somebody else's now.
    is_handed_on: bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Whoever takes it reads the socket.
    source: Option<FrameSource>,
    stdout: Queue,
    stderr: Queue,
    ending: Option<Ending>,
}

struct Queue {
    bytes: VecDeque<u8>,
    /// Somebody reads it, or will. Otherwise its bytes are dropped.
    wanted: bool,
}

impl Queue {
    fn new() -> Self {
        Self { bytes: VecDeque::new(), wanted: true }
    }

    /// Takes what there is room for; says how much.
    fn offer(&mut self, bytes: &[u8]) -> usize {
        if !self.wanted {
            return bytes.len();
        }
        let length = bytes.len().min(QUEUE_LIMIT.saturating_sub(self.bytes.len()));
        self.bytes.extend(&bytes[..length]);
        length
    }
}

impl State {
    fn queue(&mut self, channel: Channel) -> &mut Queue {
        match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        }
    }
}

impl Demultiplexer {
    pub(super) fn new(stream: Arc<UnixStream>) -> Self {
        let state = State {
            source: Some(FrameSource::default()),
            stdout: Queue::new(),
            stderr: Queue::new(),
            ending: None,
        };
        Self { stream, is_handed_on: false, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Reads of one stream. 0 is its end: the process has ended, or we are detached.
    pub(super) fn read(&self, channel: Channel, buffer: &mut [u8]) -> Result<usize, AgentError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.lock();
        loop {
            let queue = &mut state.queue(channel).bytes;
            if !queue.is_empty() {
                let length = queue.read(buffer).unwrap_or(0);
                self.changed.notify_all();
                return Ok(length);
            }
            match state.ending {
                Some(Ending::Broken) => return Err(AgentError::Lost { what: WHAT }),
                Some(_) => return Ok(0),
                None => state = self.advance(state, None, None)?,
            }
        }
    }

    /// Whatever comes next of either stream, or the end when there is no more. The time is up, too, when `cancel` can be
    /// read.
    pub(super) fn next(
        &self,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<Available, AgentError> {
        let mut state = self.lock();
        loop {
            for channel in [Channel::Stdout, Channel::Stderr] {
                let queue = state.queue(channel);
                if !queue.bytes.is_empty() {
                    let bytes = std::mem::take(&mut queue.bytes).into();
                    self.changed.notify_all();
                    return Ok(Available::Data(channel, bytes));
                }
            }
            match state.ending {
                Some(ending) => return Ok(Available::End(ending)),
                None => state = self.advance(state, deadline, cancel)?,
            }
        }
    }

    /// The end, when it has come. What the streams bring before it goes to those who read them.
    pub(super) fn ending(&self, deadline: Option<Instant>) -> Result<Ending, AgentError> {
        let mut state = self.lock();
        loop {
            match state.ending {
                Some(ending) => return Ok(ending),
                None => state = self.advance(state, deadline, None)?,
            }
        }
    }

    /// The stream, if it brought the process's end and nothing behind that.
    pub(super) fn into_stream(mut self) -> Option<Arc<UnixStream>> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_clean = matches!(state.ending, Some(Ending::Exit(_)))
            && state.source.as_ref().is_some_and(|source| source.start == source.end);
        self.is_handed_on = is_clean;
        is_clean.then(|| self.stream.clone())
    }

    /// Nobody reads this stream any more.
    pub(super) fn forget(&self, channel: Channel) {
        let mut state = self.lock();
        let queue = state.queue(channel);
        queue.wanted = false;
        queue.bytes = VecDeque::new();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the socket once, or waits while another thread does, or while a queue is full.
    fn advance<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
        cancel: Option<BorrowedFd<'_>>,
    ) -> Result<MutexGuard<'a, State>, AgentError> {
        let Some(mut source) = state.source.take() else { return self.wait(state, deadline) };
        drop(state);
        let piece = source.peek(&mut Timed::new(&self.stream, deadline).or(cancel));
        state = self.lock();
        let mut stuck = false;
        let result = match piece {
            Ok(Piece::Data(channel, length)) => {
                let taken = state.queue(channel).offer(source.bytes(length));
                stuck = taken == 0;
                source.consume(taken);
                Ok(())
            }
            Ok(Piece::End(ending)) => {
                state.ending = Some(ending);
                Ok(())
            }
            Err(error) => {
                if !error.is_timeout() {
                    state.ending = Some(Ending::Broken);
                }
                Err(error)
            }
        };
        state.source = Some(source);
        if stuck {
            return self.wait(state, deadline);
        }
        self.changed.notify_all();
        result.map(|()| state)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, AgentError> {
        let Some(deadline) = deadline else {
            return Ok(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AgentError::Deadline { what: WHAT });
        }
        Ok(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl Drop for Demultiplexer {
    /// Nobody will ever read again: the agent sees that its client is gone even while somebody still holds the way
    /// to the standard input.
    fn drop(&mut self) {
        if !self.is_handed_on {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Data that is there, or the last frame.
enum Piece {
    Data(Channel, usize),
    End(Ending),
}

/// Frames from a stream of bytes.
struct FrameSource {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The stream that the next bytes belong to, and how many of them.
    current: Option<(Channel, usize)>,
}

impl Default for FrameSource {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_SIZE], start: 0, end: 0, current: None }
    }
}

impl FrameSource {
    /// What comes next; it stays until it is consumed.
    fn peek(&mut self, stream: &mut impl Read) -> Result<Piece, AgentError> {
        loop {
            if let Some((channel, left)) = self.current {
                self.fill(stream, 1)?;
                return Ok(Piece::Data(channel, left.min(self.end - self.start)));
            }
            self.fill(stream, FRAME_HEADER_SIZE)?;
            let mut bytes = [0; FRAME_HEADER_SIZE];
            bytes.copy_from_slice(self.bytes(FRAME_HEADER_SIZE));
            let frame =
                FrameHeader::parse(bytes).map_err(|source| AgentError::BadFrame { what: WHAT, source })?;
            let channel = match frame.kind {
                FrameKind::Stdout => Channel::Stdout,
                FrameKind::Stderr => Channel::Stderr,
                FrameKind::Exit => return self.exit(stream, frame.data_length()),
                FrameKind::Detached => return Ok(Piece::End(Ending::Detached)),
                FrameKind::Stdin | FrameKind::StdinEnd => return Err(AgentError::Unexpected { what: WHAT }),
            };
            self.start += FRAME_HEADER_SIZE;
            self.current = Some((channel, frame.data_length())).filter(|(_, length)| *length > 0);
        }
    }

    fn exit(&mut self, stream: &mut impl Read, length: usize) -> Result<Piece, AgentError> {
        const { assert!(FRAME_HEADER_SIZE + MAX_EXIT_FRAME <= BUFFER_SIZE) };
        self.fill(stream, FRAME_HEADER_SIZE + length)?;
        let json = &self.bytes(FRAME_HEADER_SIZE + length)[FRAME_HEADER_SIZE..];
        let exit = serde_json::from_slice(json).map_err(|source| {
            let source = header::HeaderError::Malformed { source: header::Mismatch::from(source) };
            AgentError::BadHeader { what: WHAT, source }
        })?;
        self.start += FRAME_HEADER_SIZE + length;
        Ok(Piece::End(Ending::Exit(exit)))
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.buffer[self.start..self.start + length]
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.current = self.current.and_then(|(channel, left)| {
            let left = left.saturating_sub(length);
            (left > 0).then_some((channel, left))
        });
    }

    /// Reads until so many bytes are there.
    fn fill(&mut self, stream: &mut impl Read, length: usize) -> Result<(), AgentError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + length > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < length {
            match stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(AgentError::Lost { what: WHAT }),
                Ok(count) => self.end += count,
                Err(error) => return Err(AgentError::from_io(WHAT, error)),
            }
        }
        Ok(())
    }
}
