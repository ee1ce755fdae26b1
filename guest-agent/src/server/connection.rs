//! A client's connection: a header, and then, for whoever is attached to a process, frames. If it is kept, once more.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::de::DeserializeOwned;
use vmm_protocol::{
    Answer, ErrorKind, FRAME_HEADER_SIZE, FrameHeader, FrameKind, HeaderError, MAX_FRAME, header,
};

use crate::refusal::Refusal;

/// How much is read from a client at once.
const READ_SIZE: usize = 64 * 1024;

/// How long a client may take to ask again on a connection that is kept for it. Those of ours take half of it at most.
const KEPT_TIMEOUT: Duration = Duration::from_secs(120);

fn again_by() -> Option<Instant> {
    Instant::now().checked_add(KEPT_TIMEOUT)
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its request is yet to come, and must come by then.
    Asking(Option<Instant>),
    /// It carries the input and output of a process.
    Attached(u64),
    /// It waits for a process to end.
    Waiting(u64),
    /// The guest's file systems stand still for it.
    Freezing,
    /// Everything is said; what is still to be sent must go by then. The output of a process has all the time that
    /// its reader takes, as it had while the process ran.
    Closing(Option<Instant>),
}

/// A client's connection.
pub(super) struct Connection {
    stream: OwnedFd,
    /// What it is for.
    pub role: Role,
    /// A read may bring something.
    pub readable: bool,
    /// A write may take something.
    pub writable: bool,
    /// The client will send nothing more: it is gone, or half of it.
    pub ended: bool,
    /// The connection failed.
    pub broken: bool,
    /// The loop is told when this connection becomes ready.
    pub watched: bool,
    /// It is also told when this connection takes more.
    pub wants_room: bool,
    /// Another request is to follow the one that is being answered.
    pub keep: bool,
    input: Vec<u8>,
    consumed: usize,
    /// What is left of the frame that is being received.
    frame: Option<(FrameKind, usize)>,
    output: Vec<u8>,
    sent: usize,
}

/// What a client sends while it is attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input<'a> {
    /// For the process's standard input.
    Bytes(&'a [u8]),
    /// The end of it.
    End,
    /// Nothing for now.
    Nothing,
    /// The client is gone, or breaks the protocol.
    Gone,
}

impl Connection {
    /// Takes a stream that does not block.
    pub(super) fn new(stream: OwnedFd, deadline: Instant) -> Self {
        Self {
            stream,
            role: Role::Asking(Some(deadline)),
            readable: true,
            writable: true,
            ended: false,
            broken: false,
            watched: false,
            wants_room: false,
            keep: false,
            input: Vec::new(),
            consumed: 0,
            frame: None,
            output: Vec::new(),
            sent: 0,
        }
    }

    /// When it is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.role {
            Role::Asking(deadline) | Role::Closing(deadline) => deadline,
            Role::Attached(_) | Role::Waiting(_) | Role::Freezing => None,
        }
    }

    /// The descriptor to be waited for.
    pub(super) fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    /// Reads the request, once its last answer is on its way. `None`: it is not complete.
    pub(super) fn next_request<T: DeserializeOwned>(&mut self) -> Result<Option<T>, HeaderError> {
        if self.is_congested() {
            self.flush();
            if self.is_congested() {
                return if self.ended { Err(HeaderError::Closed) } else { Ok(None) };
            }
            self.role = Role::Asking(again_by());
        }
        loop {
            if let Some((header, length)) = header::decode(&self.input[self.consumed..])? {
                self.consumed += length;
                self.keep = header.keep;
                return Ok(Some(header.body));
            }
            match self.receive() {
                Ok(true) => {}
                Ok(false) if self.ended => return Err(HeaderError::Closed),
                Ok(false) => return Ok(None),
                Err(source) => return Err(HeaderError::Transfer { source }),
            }
        }
    }

    /// Everything is said to it, and another request is to follow. `deadline`: by when it must have taken what was said.
    pub(super) fn expect_request(&mut self, deadline: Option<Instant>) {
        self.keep = false;
        self.frame = None;
        self.input.drain(..self.consumed);
        self.consumed = 0;
        // The buffer of a long command is not kept for the rest of a connection's life.
        self.input.shrink_to(READ_SIZE);
        self.role = Role::Asking(if self.is_congested() { deadline } else { again_by() });
    }

    /// Whether something has arrived behind the request.
    pub(super) fn has_more_input(&self) -> bool {
        self.input.len() > self.consumed
    }

    /// What comes next of the frames; it stays until it is consumed.
    pub(super) fn peek_input(&mut self) -> Input<'_> {
        loop {
            let available = self.input.len() - self.consumed;
            match self.frame {
                Some((FrameKind::StdinEnd, _)) => return Input::End,
                Some((_, left)) if available > 0 => {
                    let end = self.consumed + left.min(available);
                    return Input::Bytes(&self.input[self.consumed..end]);
                }
                None if available >= FRAME_HEADER_SIZE => {
                    let mut bytes = [0; FRAME_HEADER_SIZE];
                    bytes.copy_from_slice(&self.input[self.consumed..self.consumed + FRAME_HEADER_SIZE]);
                    self.consumed += FRAME_HEADER_SIZE;
                    // What else it sends may come when its process has ended, and would be taken for a request.
                    self.keep = false;
                    match FrameHeader::parse(bytes) {
                        Ok(frame) if matches!(frame.kind, FrameKind::Stdin | FrameKind::StdinEnd) => {
                            let empty = frame.kind == FrameKind::Stdin && frame.length == 0;
                            self.frame = (!empty).then(|| (frame.kind, frame.data_length()));
                        }
                        _ => return Input::Gone,
                    }
                }
                _ => match self.receive() {
                    Ok(true) => {}
                    Ok(false) if self.ended => return Input::Gone,
                    Ok(false) => return Input::Nothing,
                    Err(_) => return Input::Gone,
                },
            }
        }
    }

    /// Takes bytes of the current frame, or its end.
    pub(super) fn consume_input(&mut self, length: usize) {
        self.consumed += length;
        self.frame = match self.frame {
            Some((FrameKind::Stdin, left)) if left > length => Some((FrameKind::Stdin, left - length)),
            _ => None,
        };
    }

    /// Receives more. Says whether there was any; at the end, `ended` is set.
    fn receive(&mut self) -> io::Result<bool> {
        if !self.readable {
            return Ok(false);
        }
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let length = self.input.len();
        self.input.reserve(READ_SIZE);
        loop {
            match recv(&self.stream, rustix::buffer::spare_capacity(&mut self.input), RecvFlags::DONTWAIT) {
                Ok(_) if self.input.len() > length => {
                    // Less than there is room for is all there was: what comes later, or the end, is an edge of its own.
                    self.readable = self.input.len() == self.input.capacity();
                    return Ok(true);
                }
                Ok(_) => {
                    self.ended = true;
                    self.readable = false;
                    return Ok(false);
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Ok(false);
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    self.broken = true;
                    return Err(errno.into());
                }
            }
        }
    }

    /// Whether the client takes less than we have.
    pub(super) fn is_congested(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Whether it has been told everything, and has asked nothing more.
    pub(super) fn is_resting(&self) -> bool {
        matches!(self.role, Role::Asking(_)) && !self.is_congested()
    }

    /// Sends what a slow client has left, as far as it goes.
    pub(super) fn flush(&mut self) {
        while self.is_congested() && self.writable && !self.broken {
            match send(&self.stream, &self.output[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => self.sent += length,
                Err(errno) => self.failed(errno),
            }
        }
        if !self.is_congested() && self.sent > 0 {
            self.sent = 0;
            self.output.clear();
            // The buffer of a replay or a long list is not kept for the rest of a connection's life.
            self.output.shrink_to(MAX_FRAME);
        }
    }

    /// Sends bytes; what the client does not take at once waits.
    pub(super) fn send(&mut self, mut bytes: &[u8]) {
        self.flush();
        while !bytes.is_empty() && !self.is_congested() && self.writable && !self.broken {
            match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => bytes = &bytes[length..],
                Err(errno) => self.failed(errno),
            }
        }
        self.output.extend_from_slice(bytes);
    }

    /// Sends a frame that is not part of a bulk stream.
    pub(super) fn send_frame(&mut self, kind: FrameKind, data: &[u8]) {
        // In one piece: what is sent is a packet to the host each time.
        let mut frame = |piece: &[u8]| {
            self.send(&[&FrameHeader::new(kind, piece.len()).to_bytes(), piece].concat());
        };
        if data.is_empty() {
            frame(&[]);
        }
        data.chunks(MAX_FRAME).for_each(frame);
    }

    /// Sends the answer to the request.
    pub(super) fn answer(&mut self, answer: &Answer) {
        let encoded = header::encode_keeping(answer, self.keep).or_else(|error| {
            let refusal = Refusal::system(ErrorKind::Internal, "the answer cannot be sent", error);
            header::encode_keeping(&Answer::from(refusal), self.keep)
        });
        match encoded {
            Ok(bytes) => self.send(&bytes),
            // A client without an answer sees the end of the stream.
            Err(_) => self.broken = true,
        }
    }

    fn failed(&mut self, errno: Errno) {
        match errno {
            Errno::AGAIN => self.writable = false,
            Errno::INTR => {}
            _ => self.broken = true,
        }
    }
}
