//! The Unix side of one connection: bytes go straight between guest memory and the socket, and what the socket has
//! no room for waits in a buffer that the guest's credit bounds.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;
use vmm_sys::{Interest, Poller, unix_socket};

use crate::memory::{ReadVectors, WriteVectors};
use crate::virtio::{ChainReader, ChainWriter, QueueError};

/// The system's limit on the buffers of one call (`UIO_MAXIOV`).
const MOST_VECTORS: usize = 1024;

/// How often the rest of a peer's bytes is read to be thrown away; more than a socket holds unless someone enlarged it.
const MOST_SCRAPS: usize = 64;

/// The lists of buffers for system calls, shared by all connections.
#[derive(Default)]
pub(super) struct Vectors {
    read: ReadVectors,
    write: WriteVectors,
}

/// What is known of the bytes that the peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// There were none; the poller tells when some come.
    Awaited,
    /// There are some, or the end.
    Ready,
    /// No more are read.
    Ended,
}

/// What becomes of the bytes that go to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// They are written.
    Open,
    /// What is buffered is written; no more come.
    Ending,
    /// The peer saw the end.
    Ended,
    /// The peer takes no more.
    Refused,
}

/// What a read from the peer brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// So many bytes.
    Bytes(u32),
    /// Nothing now.
    Nothing,
    /// The peer will send nothing more.
    End,
}

/// A socket to a program on the host, and what is on its way to it.
#[derive(Debug)]
pub(super) struct HostStream {
    socket: UnixStream,
    token: u64,
    /// What the poller watches.
    watched: Interest,
    input: Input,
    output: Output,
    buffer: VecDeque<u8>,
    /// The peer is gone, or both directions have ended; what it sent before can be read. No longer in the poller,
    /// which would report it without end.
    is_hung_up: bool,
}

impl HostStream {
    /// For a socket that does not block and that the poller watches for nothing under `token`.
    pub(super) fn new(socket: UnixStream, token: u64) -> Self {
        Self {
            socket,
            token,
            watched: Interest::NONE,
            input: Input::Ready,
            output: Output::Open,
            buffer: VecDeque::new(),
            is_hung_up: false,
        }
    }

    /// Whether a read may bring something.
    pub(super) fn has_input(&self) -> bool {
        self.input == Input::Ready
    }

    /// Whether nothing more is read.
    pub(super) fn is_drained(&self) -> bool {
        self.input == Input::Ended
    }

    /// Whether everything for the peer was written, as far as it takes it.
    pub(super) fn is_flushed(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the peer does not take what is sent to it.
    pub(super) fn refuses_output(&self) -> bool {
        self.output == Output::Refused
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.is_hung_up
    }

    /// The poller found something to read.
    pub(super) fn input_came(&mut self) {
        if self.input == Input::Awaited {
            self.input = Input::Ready;
        }
    }

    /// The poller found the peer gone. Nothing can be written any more; says how much of the buffer that leaves.
    pub(super) fn hang_up(&mut self, poller: &Poller) -> u32 {
        self.input_came();
        if !self.is_hung_up {
            self.is_hung_up = true;
            if let Err(error) = poller.delete(&self.socket) {
                tracing::error!(%error, "cannot take a socket out of the poller");
            }
        }
        self.refuse_output()
    }

    /// Has the poller watch for what can be worked on: input if it is wanted and none is known of, room for output
    /// if there is some.
    pub(super) fn watch(&mut self, poller: &Poller, input_wanted: bool) -> io::Result<()> {
        let readable = input_wanted && self.input == Input::Awaited;
        let interest = Interest { readable, writable: !self.buffer.is_empty() };
        if interest != self.watched && !self.is_hung_up {
            poller.modify(&self.socket, self.token, interest)?;
            self.watched = interest;
        }
        Ok(())
    }

    /// Reads at most `limit` bytes, at least one, straight into guest memory.
    pub(super) fn fetch(
        &mut self,
        target: &ChainWriter<'_>,
        limit: u32,
        vectors: &mut Vectors,
    ) -> io::Result<Fetched> {
        let mut left = limit;
        let slices = target.slices().take(MOST_VECTORS).map_while(|slice| first_of(&slice, &mut left));
        let result = vectors.read.with(slices, |buffers| retry(|| (&self.socket).read_vectored(buffers)));
        let limit = limit - left;
        match result {
            Ok(0) => {
                self.input = Input::Ended;
                Ok(Fetched::End)
            }
            Ok(count) => {
                // Less than there was room for: all of it. Another look would cost a call to learn that.
                let count = u32::try_from(count).unwrap_or(limit);
                if count < limit && !self.is_hung_up {
                    self.input = Input::Awaited;
                }
                Ok(Fetched::Bytes(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.input = Input::Awaited;
                Ok(Fetched::Nothing)
            }
            Err(error) => {
                self.input = Input::Ended;
                Err(error)
            }
        }
    }

    /// Nothing more is read from the peer, which learns it by its next write.
    pub(super) fn end_input(&mut self) {
        self.input = Input::Ended;
        // It fails if the peer is gone, which the poller reports.
        let _ = self.socket.shutdown(Shutdown::Read);
        // What the peer had sent is of no use. Were it left unread, closing the socket would show the peer an error
        // where it should see the end of the stream.
        let mut scrap = [0; 4096];
        for _ in 0..MOST_SCRAPS {
            if !matches!((&self.socket).read(&mut scrap), Ok(1..)) {
                break;
            }
        }
    }

    /// Sends guest memory to the peer and buffers what it has no room for; says how much was sent (or is of no use
    /// any more).
    pub(super) fn deliver(
        &mut self,
        payload: &ChainReader<'_>,
        vectors: &mut Vectors,
    ) -> Result<u32, QueueError> {
        let length = payload.remaining();
        if self.output != Output::Open {
            return Ok(length);
        }
        let mut sent = 0;
        if self.buffer.is_empty() {
            let slices = payload.slices().take(MOST_VECTORS);
            let result = vectors.write.with(slices, |buffers| unix_socket::send(&self.socket, buffers));
            match result {
                Ok(count) => sent = u32::try_from(count).unwrap_or(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.refuse_output();
                    return Ok(length);
                }
            }
        }
        let mut rest = *payload;
        rest.take(sent)?;
        self.keep(rest)?;
        Ok(sent)
    }

    /// Sends bytes of our own, which are no part of the guest's stream. `false`: there was no room for them.
    pub(super) fn say(&mut self, bytes: &[u8]) -> bool {
        unix_socket::send(&self.socket, &[IoSlice::new(bytes)]).is_ok_and(|count| count == bytes.len())
    }

    /// Writes what is buffered, as far as there is room; says how much left the buffer.
    pub(super) fn flush(&mut self) -> u32 {
        let before = self.buffer.len();
        while !self.buffer.is_empty() {
            let (head, tail) = self.buffer.as_slices();
            match unix_socket::send(&self.socket, &[IoSlice::new(head), IoSlice::new(tail)]) {
                Ok(count) => drop(self.buffer.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => drop(self.refuse_output()),
            }
        }
        let flushed = before - self.buffer.len();
        if self.buffer.is_empty() {
            self.buffer = VecDeque::new();
            self.show_end();
        }
        u32::try_from(flushed).unwrap_or(u32::MAX)
    }

    /// The guest will send nothing more: the peer sees the end behind what is buffered.
    pub(super) fn end_output(&mut self) {
        if self.output == Output::Open {
            self.output = Output::Ending;
            self.show_end();
        }
    }

    fn show_end(&mut self) {
        if self.output == Output::Ending && self.buffer.is_empty() {
            self.output = Output::Ended;
            // It fails if the peer is gone, which the poller reports.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    fn refuse_output(&mut self) -> u32 {
        self.output = Output::Refused;
        let dropped = std::mem::take(&mut self.buffer);
        u32::try_from(dropped.len()).unwrap_or(u32::MAX)
    }

    /// Copies the bytes behind those that wait already. Their number is bounded by the guest's credit.
    fn keep(&mut self, mut bytes: ChainReader<'_>) -> Result<(), QueueError> {
        let mut piece = [0; 4096];
        while bytes.remaining() > 0 {
            let count = piece.len().min(bytes.remaining() as usize);
            bytes.read(&mut piece[..count])?;
            self.buffer.extend(&piece[..count]);
        }
        Ok(())
    }
}

/// The part of a slice that is within what is left to take.
fn first_of<'m>(slice: &VolatileSlice<'m>, left: &mut u32) -> Option<VolatileSlice<'m>> {
    let count = slice.len().min(*left as usize);
    *left -= u32::try_from(count).ok()?;
    if count == 0 && !slice.is_empty() { None } else { slice.subslice(0, count).ok() }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
