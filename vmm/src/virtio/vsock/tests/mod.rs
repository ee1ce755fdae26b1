//! The device against a driver that the tests play, and programs on the host.

mod connections;
mod flow;
mod garbage;
mod interleavings;
mod life;
mod peers;

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tempfile::TempDir;

use self::peers::{Client, GuestSocket};
use super::packet::{HOST_CID, Header, Operation};
use super::{ConnectionLimit, GuestCid, VsockDevice};
use crate::virtio::testing::{Buffer, GuestQueue, TestMemory};
use crate::virtio::{QueueState, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS, VERSION_1, VirtioDevice};

const CID: u64 = 3;
const FEATURES: u64 = VERSION_1 | RING_EVENT_INDEX | RING_INDIRECT_DESCRIPTORS;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;
/// What Linux gives for a packet, nearly.
const BUFFER: u32 = 4096;
const LARGEST_PACKET: usize = 44 + (64 << 10);

/// A packet as the guest sees it.
#[derive(Debug)]
struct Packet {
    header: Header,
    payload: Vec<u8>,
}

impl Packet {
    fn operation(&self) -> Operation {
        Operation::from_number(self.header.operation).unwrap()
    }
}

/// A guest with a driver, and the folder of the host's sockets.
struct Guest {
    device: VsockDevice,
    memory: TestMemory,
    receive: GuestQueue,
    transmit: GuestQueue,
    event: GuestQueue,
    /// The pieces of each receive buffer that the device has, by its head.
    buffers: HashMap<u16, Vec<Buffer>>,
    outbox: u64,
    folder: TempDir,
}

impl Guest {
    /// With all queues running and 32 receive buffers.
    fn new() -> Self {
        let mut guest = Self::bare(ConnectionLimit::default());
        guest.give_buffers(32, &[BUFFER]);
        guest
    }

    /// With all queues running and no receive buffer.
    fn bare(limit: ConnectionLimit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cid = GuestCid::try_from(3).unwrap();
        let device = VsockDevice::with_limit(cid, &folder.path().join("vsock"), limit).unwrap();
        let mut memory = TestMemory::new(8 << 20);
        let mut queue = |size| {
            let mut queue = GuestQueue::new(&mut memory, size);
            queue.use_event_index();
            queue
        };
        let (receive, transmit, event) = (queue(128), queue(128), queue(16));
        let outbox = memory.allocate(LARGEST_PACKET);
        let buffers = HashMap::new();
        let mut guest = Self { device, memory, receive, transmit, event, buffers, outbox, folder };
        guest.start([None; 3]);
        guest
    }

    fn start(&mut self, states: [Option<QueueState>; 3]) {
        let resources = [&self.receive, &self.transmit, &self.event].map(GuestQueue::resources);
        for ((index, resources), state) in (0..).zip(resources).zip(states) {
            self.device.start_queue(index, resources, FEATURES, state).unwrap();
        }
    }

    fn stop(&mut self) -> [Option<QueueState>; 3] {
        [RECEIVE, TRANSMIT, EVENT].map(|index| self.device.stop_queue(index))
    }

    /// Stops and starts all queues: whatever was to be done by then is done, with the buffers that there were.
    fn quiesce(&mut self) {
        for _ in 0..2 {
            let states = self.stop();
            self.start(states);
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("vsock")
    }

    /// Makes receive buffers of such pieces available.
    fn give_buffers(&mut self, count: usize, pieces: &[u32]) {
        for _ in 0..count {
            let pieces: Vec<Buffer> = pieces
                .iter()
                .map(|&length| Buffer::writable(self.memory.allocate(length as usize), length))
                .collect();
            self.give_back(pieces);
        }
    }

    fn give_back(&mut self, pieces: Vec<Buffer>) {
        let head = self.receive.add_indirect(&pieces);
        self.buffers.insert(head, pieces);
        self.receive.kick_if_wanted();
    }

    /// The next packet, if there is one already. Its buffer is kept.
    fn try_receive_and_keep(&mut self) -> Option<(Packet, Vec<Buffer>)> {
        let used = self.receive.try_used()?;
        Some(self.take_out(used.head, used.written as usize))
    }

    fn take_out(&mut self, head: u16, written: usize) -> (Packet, Vec<Buffer>) {
        let pieces = self.buffers.remove(&head).unwrap();
        let mut bytes = Vec::new();
        for piece in &pieces {
            let count = (piece.length as usize).min(written - bytes.len());
            bytes.extend(self.memory.read(piece.address, count));
        }
        assert!(written >= 44 && bytes.len() == written, "{written} bytes written");
        let header = Header::parse(bytes[..44].try_into().unwrap());
        let payload = bytes.split_off(44);
        assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
        assert_eq!(header.length as usize, payload.len());
        (Packet { header, payload }, pieces)
    }

    /// The next packet. Its buffer goes back to the device.
    fn receive(&mut self) -> Packet {
        let used = self.receive.wait_used();
        let (packet, pieces) = self.take_out(used.head, used.written as usize);
        self.give_back(pieces);
        packet
    }

    /// The next packet if there is one already. Its buffer goes back to the device.
    fn try_receive(&mut self) -> Option<Packet> {
        let (packet, pieces) = self.try_receive_and_keep()?;
        self.give_back(pieces);
        Some(packet)
    }

    fn expect(&mut self, operation: Operation) -> Header {
        let packet = self.receive();
        assert_eq!(packet.operation(), operation, "{packet:?}");
        packet.header
    }

    /// Nothing has come, and nothing is about to.
    fn expect_silence(&mut self) {
        self.quiesce();
        let packet = self.try_receive();
        assert!(packet.is_none(), "{packet:?}");
    }

    /// Sends bytes as a packet and waits until the device took them.
    fn send_raw(&mut self, bytes: &[u8]) {
        self.memory.write(self.outbox, bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        let pieces = match length {
            0..=44 => vec![Buffer::readable(self.outbox, length)],
            _ => vec![Buffer::readable(self.outbox, 44), Buffer::readable(self.outbox + 44, length - 44)],
        };
        self.transmit.add_indirect(&pieces);
        self.transmit.kick_if_wanted();
        // The device tells of it 10 ms later: a driver seldom waits for that.
        assert_eq!(self.transmit.look_for_used().written, 0);
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let mut bytes = header.bytes().to_vec();
        bytes.extend(payload);
        self.send_raw(&bytes);
    }

    /// A client of the host that said which port it wants.
    fn client(&self, port: u32) -> Client {
        Client::new(&self.socket(), port)
    }

    /// A program on the host that listens for the guest.
    fn service(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A connection from a client of the host, accepted.
    fn connection_from_host(&mut self, port: u32) -> (GuestSocket, Client) {
        let mut client = self.client(port);
        let socket = GuestSocket::accept(self);
        assert_eq!(client.read_line(), format!("OK {}\n", socket.host_port));
        (socket, client)
    }

    /// A connection from a client in the guest, accepted.
    fn connection_to_host(&mut self, port: u32) -> (GuestSocket, Client) {
        let service = self.service(port);
        let mut socket = GuestSocket::new(port, 5000 + port);
        socket.send(self, Operation::Request);
        let accepted = Client::from_stream(service.accept().unwrap().0);
        let header = self.expect(Operation::Response);
        assert_eq!((header.source_port, header.destination_port), (port, 5000 + port));
        socket.take(&header);
        (socket, accepted)
    }

    /// A connection that works: the device is well.
    fn expect_health(&mut self) {
        let (mut socket, mut client) = self.connection_from_host(7777);
        client.write(b"ping");
        assert_eq!(socket.read(self, 4), b"ping");
        socket.write(self, b"pong");
        assert_eq!(client.read(4), b"pong");
        drop(client);
        assert_eq!(self.expect(Operation::Shutdown).flags, 3);
        socket.send(self, Operation::Reset);
    }
}

/// Bytes that show when some are lost, doubled or swapped.
fn pattern(length: usize) -> Vec<u8> {
    pattern_from(0, length)
}

fn pattern_from(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[3]).collect()
}
