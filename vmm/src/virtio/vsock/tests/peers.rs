//! Both ends of a connection: what the guest's kernel keeps of it, and a program on the host.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::super::packet::{HOST_CID, Header, Operation, STREAM};
use super::{CID, Guest, Packet};
use crate::virtio::testing::PATIENCE;

/// The guest's end of a connection, as its kernel has it.
#[derive(Debug)]
pub(super) struct GuestSocket {
    pub host_port: u32,
    pub guest_port: u32,
    pub allocation: u32,
    /// Of what the host sent, and what of that was read.
    pub received: u32,
    pub forwarded: u32,
    /// What was sent, and what the host says.
    pub sent: u32,
    pub host_allocation: u32,
    pub host_forwarded: u32,
    pub unread: VecDeque<u8>,
}

impl GuestSocket {
    pub(super) fn new(host_port: u32, guest_port: u32) -> Self {
        Self {
            host_port,
            guest_port,
            allocation: 256 << 10,
            received: 0,
            forwarded: 0,
            sent: 0,
            host_allocation: 0,
            host_forwarded: 0,
            unread: VecDeque::new(),
        }
    }

    /// Accepts the connection whose request comes next.
    pub(super) fn accept(guest: &mut Guest) -> Self {
        Self::accept_with(guest, 256 << 10)
    }

    pub(super) fn accept_with(guest: &mut Guest, allocation: u32) -> Self {
        let request = guest.expect(Operation::Request);
        let mut socket = Self::new(request.source_port, request.destination_port);
        socket.allocation = allocation;
        socket.take(&request);
        socket.send(guest, Operation::Response);
        socket
    }

    pub(super) fn header(&self, operation: Operation) -> Header {
        Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: self.guest_port,
            destination_port: self.host_port,
            length: 0,
            socket_type: STREAM,
            operation: operation as u16,
            flags: 0,
            buffer_allocation: self.allocation,
            forward_count: self.forwarded,
        }
    }

    pub(super) fn send(&mut self, guest: &mut Guest, operation: Operation) {
        let header = self.header(operation);
        guest.send(&header, &[]);
    }

    pub(super) fn shut_down(&mut self, guest: &mut Guest, flags: u32) {
        let header = Header { flags, ..self.header(Operation::Shutdown) };
        guest.send(&header, &[]);
    }

    /// How much may be sent to the host.
    pub(super) fn credit(&self) -> u32 {
        self.host_allocation - self.sent.wrapping_sub(self.host_forwarded)
    }

    /// Sends one packet, whether there is credit for it or not.
    pub(super) fn write(&mut self, guest: &mut Guest, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap();
        let header = Header { length, ..self.header(Operation::ReadWrite) };
        self.sent = self.sent.wrapping_add(length);
        guest.send(&header, bytes);
    }

    /// Takes in a packet of this connection.
    pub(super) fn take(&mut self, header: &Header) {
        assert_eq!((header.source_port, header.destination_port), (self.host_port, self.guest_port));
        self.host_allocation = header.buffer_allocation;
        self.host_forwarded = header.forward_count;
    }

    pub(super) fn take_packet(&mut self, packet: Packet) {
        self.take(&packet.header);
        self.received = self.received.wrapping_add(packet.header.length);
        let under_way = self.received.wrapping_sub(self.forwarded);
        assert!(under_way <= self.allocation, "{under_way} bytes came and {} fit", self.allocation);
        self.unread.extend(packet.payload);
    }

    /// Receives until there are so many bytes, and reads them.
    pub(super) fn read(&mut self, guest: &mut Guest, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let packet = guest.receive();
            assert_eq!(packet.operation(), Operation::ReadWrite, "{packet:?}");
            self.take_packet(packet);
        }
        self.take_unread(count)
    }

    pub(super) fn take_unread(&mut self, count: usize) -> Vec<u8> {
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(count).unwrap());
        self.unread.drain(..count).collect()
    }
}

/// A program on the host.
#[derive(Debug)]
pub(super) struct Client {
    pub stream: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn new(path: &Path, port: u32) -> Self {
        let mut client = Self::silent(path);
        client.write(format!("CONNECT {port}\n").as_bytes());
        client
    }

    pub(super) fn silent(path: &Path) -> Self {
        Self::from_stream(UnixStream::connect(path).unwrap())
    }

    pub(super) fn from_stream(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    pub(super) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line
    }

    pub(super) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(super) fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Writes until the socket has no more room; says how much it took.
    pub(super) fn write_all_there_is_room_for(&mut self, bytes: &[u8]) -> usize {
        self.socket().set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = self.stream.get_mut().write(&bytes[written..])
            && written < bytes.len()
        {
            written += count;
        }
        self.socket().set_nonblocking(false).unwrap();
        written
    }
}
