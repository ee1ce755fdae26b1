//! One connection with both of its sides: the protocol towards the guest and the socket towards the host.

use std::io;

use vmm_sys::{Poller, Ready};

use super::connection::{Connection, Ports, Received, Violation};
use super::packet::{Directions, HEADER_LENGTH, Header};
use super::stream::{Fetched, HostStream, Vectors};
use crate::virtio::{ChainReader, ChainWriter, QueueError};

/// No packet carries more, so that no connection keeps the others waiting for long. Linux has the same limit.
const MOST_PAYLOAD: u32 = 64 << 10;

/// A connection between a program on the host and one in the guest.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    /// Gone, when the program on the host is and all that it sent was passed on.
    stream: Option<HostStream>,
    /// The guest has nothing more to do with it. What it sent before is still written to the host.
    is_released: bool,
}

/// What a session put into a buffer of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// A packet of that length, header and all.
    Packet(u32),
    /// There was nothing to send after all.
    Nothing,
    /// There is data to send, and the buffer has no room for any.
    TooSmall,
}

impl Session {
    pub(super) fn new(connection: Connection, stream: HostStream) -> Self {
        Self { connection, stream: Some(stream), is_released: false }
    }

    pub(super) fn ports(&self) -> Ports {
        self.connection.ports()
    }

    /// Whether the guest's part of it is over, so that its ports are free.
    pub(super) fn is_released(&self) -> bool {
        self.is_released
    }

    /// Whether nothing is left to do, on either side.
    pub(super) fn is_over(&self) -> bool {
        self.is_released && self.stream.as_ref().is_none_or(HostStream::is_flushed)
    }

    /// Whether there is, as far as is known, something to send to the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.is_released && (self.connection.has_control() || self.has_data())
    }

    /// Takes a packet from the guest. `payload` holds as many bytes as its header says. The answer is a packet
    /// beside those that [`Session::fill`] sends.
    pub(super) fn take_packet(
        &mut self,
        header: &Header,
        payload: &ChainReader<'_>,
        vectors: &mut Vectors,
    ) -> Result<Option<Header>, Violation> {
        let was_awaiting = self.connection.awaits_guest();
        match self.connection.receive(header)? {
            Received::Nothing => {}
            Received::Accepted => return Ok(self.accepted()),
            Received::Payload(_) => {
                if self.deliver(payload, vectors).is_err() {
                    // The memory was taken away under the packet: the stream has a hole now.
                    return Ok(Some(self.abort()));
                }
            }
            Received::Ended(directions) => self.guest_ended(directions),
            Received::Finished => {
                self.guest_ended(Directions::BOTH);
                self.is_released = true;
                return Ok(Some(self.connection.reset()));
            }
            Received::Dropped => {
                self.is_released = true;
                if was_awaiting {
                    self.stream = None;
                }
                self.guest_ended(Directions::BOTH);
            }
        }
        Ok(None)
    }

    /// The poller found the socket ready. The answer is a packet for the guest.
    pub(super) fn host_ready(&mut self, ready: Ready, poller: &Poller) -> Option<Header> {
        let stream = self.stream.as_mut()?;
        if ready.hangup {
            if self.connection.awaits_guest() {
                let is_known = self.connection.is_known_to_guest();
                let reset = self.abort();
                return is_known.then_some(reset);
            }
            self.connection.forward(stream.hang_up(poller));
        } else if ready.writable {
            self.connection.forward(stream.flush());
        }
        if ready.readable {
            stream.input_came();
        }
        self.note_host_end();
        None
    }

    /// Sends one packet to the guest. The buffer has room for a header at least.
    pub(super) fn fill(
        &mut self,
        mut target: ChainWriter<'_>,
        vectors: &mut Vectors,
    ) -> Result<Filled, QueueError> {
        if !self.has_last_words()
            && let Some(header) = self.connection.next_control()
        {
            return put(&mut target, &header);
        }
        if self.has_data() {
            let mut start = target.take(HEADER_LENGTH)?;
            let limit = target.remaining().min(self.connection.sendable()).min(MOST_PAYLOAD);
            if limit == 0 {
                return Ok(Filled::TooSmall);
            }
            match self.fetch(&target, limit, vectors) {
                Ok(Fetched::Bytes(length)) => {
                    put(&mut start, &self.connection.data(length))?;
                    return Ok(Filled::Packet(HEADER_LENGTH + length));
                }
                Ok(Fetched::Nothing) => {}
                Ok(Fetched::End) | Err(_) => {
                    self.connection.end(Directions::SEND);
                    self.note_host_end();
                }
            }
            let last = self.connection.next_control().or_else(|| self.connection.credit_update());
            return last.map_or(Ok(Filled::Nothing), |header| put(&mut start, &header));
        }
        match self.connection.credit_update() {
            Some(header) => put(&mut target, &header),
            None => Ok(Filled::Nothing),
        }
    }

    /// Has the poller watch for what can be worked on now.
    pub(super) fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        let input_wanted = !self.is_released && self.connection.sendable() > 0;
        self.stream.as_mut().map_or(Ok(()), |stream| stream.watch(poller, input_wanted))
    }

    /// Drops both sides at once; the packet tells the guest.
    pub(super) fn abort(&mut self) -> Header {
        self.is_released = true;
        self.stream = None;
        self.connection.reset()
    }

    fn has_data(&self) -> bool {
        self.connection.sendable() > 0 && self.stream.as_ref().is_some_and(HostStream::has_input)
    }

    /// Whether the host's program is gone and there is data of it. Its end then takes one packet behind the data,
    /// where it would take two: it no longer receives, and it no longer sends.
    fn has_last_words(&self) -> bool {
        self.has_data() && self.stream.as_ref().is_some_and(HostStream::is_hung_up)
    }

    /// The client waits for this line (Firecracker's convention).
    fn accepted(&mut self) -> Option<Header> {
        let line = format!("OK {}\n", self.connection.ports().host);
        let is_told = self.stream.as_mut().is_some_and(|stream| stream.say(line.as_bytes()));
        (!is_told).then(|| self.abort())
    }

    fn deliver(&mut self, payload: &ChainReader<'_>, vectors: &mut Vectors) -> Result<(), QueueError> {
        let gone = match &mut self.stream {
            Some(stream) => stream.deliver(payload, vectors)?,
            None => payload.remaining(),
        };
        self.connection.forward(gone);
        self.note_host_end();
        Ok(())
    }

    fn fetch(&mut self, target: &ChainWriter<'_>, limit: u32, vectors: &mut Vectors) -> io::Result<Fetched> {
        self.stream.as_mut().map_or(Ok(Fetched::End), |stream| stream.fetch(target, limit, vectors))
    }

    fn guest_ended(&mut self, directions: Directions) {
        let Some(stream) = &mut self.stream else { return };
        if directions.send {
            stream.end_output();
        }
        if directions.receive {
            stream.end_input();
        }
        self.note_host_end();
    }

    /// Carries over to the guest what the program on the host will no longer do.
    fn note_host_end(&mut self) {
        let Some(stream) = &self.stream else { return };
        if stream.refuses_output() {
            self.connection.end(Directions::RECEIVE);
        }
        if stream.is_hung_up() && stream.is_drained() {
            self.connection.end(Directions::BOTH);
            self.stream = None;
        }
    }
}

fn put(target: &mut ChainWriter<'_>, header: &Header) -> Result<Filled, QueueError> {
    target.write(&header.bytes())?;
    Ok(Filled::Packet(HEADER_LENGTH))
}
