//! The streams of a process, and what moves between them and the client that is attached.
//!
//! With a client, output is read only when the client has taken what was read before, so a slow client makes the
//! process wait. Without one, output goes on into rings of bounded size, and the process never waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ioctl_fionread, read, write};
use vmm_protocol::{FRAME_HEADER_SIZE, FrameHeader, FrameKind, MAX_FRAME, TerminalSize};

use super::connection::{Connection, Input};
use super::epoll::Stream;
use super::ring::Ring;
use crate::launch;

/// How many pieces are moved for one process before the others have their turn.
const TURN: usize = 16;

/// What is read at most after the end of a process whose terminal others keep busy.
const TERMINAL_REST: usize = 128 * 1024;

/// What a terminal takes for the end of the input (Ctrl-D).
const END_OF_TRANSMISSION: u8 = 4;

/// Where a frame is made: its header, then what is read. A frame fills a vsock packet and not a byte more.
pub(super) type FrameBuffer = [u8; MAX_FRAME];

/// How a turn of moving bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing can be moved until something becomes ready.
    All,
    /// There is more, and it is the others' turn.
    More,
    /// The client is gone, or breaks the protocol.
    ClientGone,
}

/// Our ends of a process's streams.
pub(super) struct Streams {
    stdin: Option<Sink>,
    stdout: Output,
    stderr: Output,
}

struct Sink {
    fd: OwnedFd,
    writable: bool,
    terminal: bool,
}

#[derive(Default)]
struct Output {
    source: Option<Source>,
    ring: Ring,
}

struct Source {
    fd: OwnedFd,
    readable: bool,
    /// After the end of the process: how much of what is in the stream may be its own.
    rest: Option<usize>,
}

impl Streams {
    /// Takes the streams of a process that was started.
    pub(super) fn new(streams: launch::Streams, terminal: bool) -> Self {
        let output =
            |fd| Output { source: Some(Source { fd, readable: true, rest: None }), ring: Ring::default() };
        Self {
            stdin: streams.stdin.map(|fd| Sink { fd, writable: true, terminal }),
            stdout: output(streams.stdout),
            stderr: streams.stderr.map(output).unwrap_or_default(),
        }
    }

    /// The descriptors to be waited for. A terminal is one only, that of the output: both of ours are one open file.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (Stream, &OwnedFd)> {
        let stdin = self.stdin.iter().filter(|sink| !sink.terminal).map(|sink| (Stream::Stdin, &sink.fd));
        let stdout = self.stdout.source.iter().map(|source| (Stream::Stdout, &source.fd));
        let stderr = self.stderr.source.iter().map(|source| (Stream::Stderr, &source.fd));
        stdin.chain(stdout).chain(stderr)
    }

    /// Remembers that a stream became ready.
    pub(super) fn ready(&mut self, stream: Stream, readable: bool, writable: bool) {
        let output = match stream {
            Stream::Stdin => None,
            Stream::Stdout => self.stdout.source.as_mut(),
            Stream::Stderr => self.stderr.source.as_mut(),
        };
        if let Some(source) = output {
            source.readable |= readable;
        }
        if let Some(sink) = self.stdin.as_mut().filter(|sink| sink.terminal || stream == Stream::Stdin) {
            sink.writable |= writable;
        }
    }

    /// Whether the process's input can still be fed.
    pub(super) fn has_stdin(&self) -> bool {
        self.stdin.is_some()
    }

    /// Whether somebody may still write to the outputs.
    pub(super) fn are_open(&self) -> bool {
        self.stdout.source.is_some() || self.stderr.source.is_some()
    }

    /// Changes the size of the terminal.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        match &self.stdout.source {
            Some(source) => launch::set_size(&source.fd, size),
            None => Err(Errno::NOTTY.into()),
        }
    }

    /// The process has ended: its input is closed, and of what is left in its outputs only what can be its own
    /// belongs to it. Others that it left behind may go on writing for ever.
    pub(super) fn process_ended(&mut self, terminal: bool) {
        self.stdin = None;
        for source in
            [&mut self.stdout, &mut self.stderr].into_iter().filter_map(|output| output.source.as_mut())
        {
            source.readable = true;
            source.rest = Some(if terminal {
                TERMINAL_REST
            } else {
                let waiting = ioctl_fionread(&source.fd).unwrap_or(0);
                usize::try_from(waiting).unwrap_or(usize::MAX)
            });
        }
    }

    /// Whether all that a process wrote before its end was read.
    pub(super) fn are_drained(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().all(|output| {
            output.source.as_ref().is_none_or(|source| !source.readable || source.rest == Some(0))
        })
    }

    /// Sends a client what is kept of the outputs from these positions on.
    pub(super) fn replay(&self, client: &mut Connection, positions: [u64; 2]) {
        let outputs = [(&self.stdout, FrameKind::Stdout), (&self.stderr, FrameKind::Stderr)];
        for ((output, kind), position) in outputs.into_iter().zip(positions) {
            let (_, pieces) = output.ring.tail_from(position);
            for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                client.send_frame(kind, piece);
            }
        }
    }

    /// Where a replay from these positions would start.
    pub(super) fn replay_starts(&self, positions: [u64; 2]) -> [u64; 2] {
        [self.stdout.ring.tail_from(positions[0]).0, self.stderr.ring.tail_from(positions[1]).0]
    }

    /// Moves what the client sends to the process.
    pub(super) fn move_input(&mut self, client: &mut Connection) -> Moved {
        for _ in 0..TURN {
            let (bytes, end) = match client.peek_input() {
                Input::Bytes(bytes) => (bytes, false),
                Input::End => (&[][..], true),
                Input::Nothing => return Moved::All,
                Input::Gone => return Moved::ClientGone,
            };
            let taken = match &mut self.stdin {
                // A process that has ended, or closed its input, or never had one, misses nothing.
                None => bytes.len(),
                Some(sink) if end && !sink.terminal => {
                    self.stdin = None;
                    0
                }
                Some(sink) => match sink.write(if end { &[END_OF_TRANSMISSION] } else { bytes }) {
                    Ok(_) if end => 0,
                    Ok(length) => length,
                    Err(Errno::AGAIN) => return Moved::All,
                    Err(_) => {
                        self.stdin = None;
                        continue;
                    }
                },
            };
            client.consume_input(taken);
        }
        Moved::More
    }

    /// Moves what the process writes to the client, or only into the rings.
    pub(super) fn move_output(
        &mut self,
        mut client: Option<&mut Connection>,
        buffer: &mut FrameBuffer,
    ) -> Moved {
        let mut idle = 0;
        for turn in 0..TURN {
            if let Some(client) = client.as_deref_mut() {
                client.flush();
                if client.broken {
                    return Moved::ClientGone;
                }
                if client.is_congested() {
                    return Moved::All;
                }
            }
            let (output, kind) = if turn % 2 == 0 {
                (&mut self.stdout, FrameKind::Stdout)
            } else {
                (&mut self.stderr, FrameKind::Stderr)
            };
            let length = output.read(&mut buffer[FRAME_HEADER_SIZE..]);
            if length == 0 {
                idle += 1;
                if idle == 2 {
                    return Moved::All;
                }
                continue;
            }
            idle = 0;
            if let Some(client) = client.as_deref_mut() {
                let header = FrameHeader::new(kind, length).to_bytes();
                buffer[..FRAME_HEADER_SIZE].copy_from_slice(&header);
                client.send(&buffer[..FRAME_HEADER_SIZE + length]);
            }
        }
        Moved::More
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if !self.writable {
            return Err(Errno::AGAIN);
        }
        match rustix::io::retry_on_intr(|| write(&self.fd, bytes)) {
            Err(Errno::AGAIN) => {
                self.writable = false;
                Err(Errno::AGAIN)
            }
            result => result,
        }
    }
}

impl Output {
    /// Reads what is there; 0 when there is nothing, for now or for ever.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(source) = self.source.as_mut().filter(|source| source.readable) else { return 0 };
        match rustix::io::retry_on_intr(|| read(source.fd.as_fd(), &mut *buffer)) {
            Ok(length) if length > 0 => {
                self.ring.push(&buffer[..length]);
                source.rest = source.rest.map(|rest| rest.saturating_sub(length));
                length
            }
            Err(Errno::AGAIN) => {
                source.readable = false;
                0
            }
            // The end; for a terminal it is an error that says so.
            _ => {
                self.source = None;
                0
            }
        }
    }
}
