//! A hostile driver and programs on the host, whose moves the fuzzer chooses, against the vsock device.
//!
//! Whatever the driver sends, the device goes on, and a connection carries what was written into it, from its
//! beginning, in order, and never more than its receiver has room for.
#![no_main]

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read};
use std::net::Shutdown;
use std::num::NonZeroU16;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use vmm::virtio::testing::{Buffer, GuestQueue, RawDescriptor, TestMemory};
use vmm::virtio::vsock::{ConnectionLimit, GuestCid, VsockDevice};
use vmm::virtio::{QueueState, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS, VERSION_1, VirtioDevice};
use vmm_sys::unix_socket;

const CID: u64 = 3;
const HOST: u64 = 2;
const HEADER: usize = 44;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;
/// Fewer than the resets that the device keeps for a guest without buffers, so that it takes every packet at once.
const MOST_MOVES: usize = 100;
const BUFFER_ROOM: u64 = 8192;

const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const READ_WRITE: u16 = 5;
const CREDIT_UPDATE: u16 = 6;

/// Services of the host, which outlive the devices.
struct Host {
    folder: PathBuf,
    services: Vec<UnixListener>,
}

static HOST_SIDE: OnceLock<Host> = OnceLock::new();

fuzz_target!(init: {
    let folder = std::env::temp_dir().join(format!("vmm-fuzz-vsock-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the sockets");
    let services = [1u32, 2].map(|port| {
        let service = UnixListener::bind(folder.join(format!("v_{port}"))).expect("a service");
        service.set_nonblocking(true).expect("a service that does not wait");
        service
    });
    assert!(HOST_SIDE.set(Host { folder, services: services.into() }).is_ok());
}, |bytes: &[u8]| {
    let host = HOST_SIDE.get().expect("set up before the first run");
    let mut input = Input(bytes);
    let mut world = World::new(host, input.byte());
    for _ in 0..MOST_MOVES {
        if input.0.is_empty() {
            break;
        }
        world.make_move(&mut input);
    }
    world.pause();
    world.look();
});

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn word(&mut self) -> u32 {
        u32::from(self.half()) | u32::from(self.half()) << 16
    }
}

/// The bytes of every stream: what is lost, doubled or swapped shows.
fn pattern(start: u32, length: usize) -> Vec<u8> {
    (start..).take(length).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// What the guest keeps of a connection.
#[derive(Default)]
struct Socket {
    allocation: u32,
    received: u32,
    forwarded: u32,
    sent: u32,
    /// It broke the rules: nothing is known of what the device does with it.
    is_tainted: bool,
}

/// A program on the host.
struct Program {
    stream: UnixStream,
    /// The line that says which port it got, as far as it came; `None`: the guest began the connection.
    line: Option<Vec<u8>>,
    written: u32,
    read: u32,
}

struct World<'a> {
    host: &'a Host,
    device: VsockDevice,
    features: u64,
    memory: TestMemory,
    queues: [GuestQueue; 3],
    /// The driver broke a ring itself: what the device says of chains means nothing.
    is_raw: bool,
    buffers: HashMap<u16, Vec<Buffer>>,
    pool: u64,
    outbox: u64,
    sockets: HashMap<(u32, u32), Socket>,
    ports: Vec<(u32, u32)>,
    programs: Vec<Program>,
}

impl<'a> World<'a> {
    fn new(host: &'a Host, choice: u8) -> Self {
        let limit = ConnectionLimit::new(NonZeroU16::new(4).expect("not zero"));
        let cid = GuestCid::try_from(3).expect("a guest's address");
        let device = VsockDevice::with_limit(cid, &host.folder.join("v"), limit).expect("a device");
        let mut memory = TestMemory::new(2 << 20);
        let event_index = choice & 1 != 0;
        let queues = [(); 3].map(|()| {
            let mut queue = GuestQueue::new(&mut memory, 16);
            if event_index {
                queue.use_event_index();
            }
            queue
        });
        let features = VERSION_1 | RING_INDIRECT_DESCRIPTORS | if event_index { RING_EVENT_INDEX } else { 0 };
        let (pool, outbox) = (memory.allocate(16 * BUFFER_ROOM as usize), memory.allocate(1 << 17));
        let mut world = Self {
            host,
            device,
            features,
            memory,
            queues,
            is_raw: false,
            buffers: HashMap::new(),
            pool,
            outbox,
            sockets: HashMap::new(),
            ports: vec![(1, 1000)],
            programs: Vec::new(),
        };
        world.start([None; 3]);
        world
    }

    fn start(&mut self, states: [Option<QueueState>; 3]) {
        for ((index, queue), state) in (0..).zip(&self.queues).zip(states) {
            self.device
                .start_queue(index, queue.resources(), self.features, state)
                .expect("a queue that lies where it did before");
        }
    }

    /// Everything that was kicked for is done when this returns.
    fn pause(&mut self) {
        let states = [RECEIVE, TRANSMIT, EVENT].map(|index| self.device.stop_queue(index));
        assert!(states.iter().all(Option::is_some), "a queue is lost");
        self.start(states);
    }

    fn make_move(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=2 => self.send_packet(input),
            3 => self.answer(input, RESPONSE),
            4 => self.write(input),
            5 => self.send_garbage(input),
            6 | 7 => self.give_buffer(input),
            8 => self.look(),
            9 => self.connect(input),
            10 => self.program_writes(input),
            11 => self.program_leaves(input),
            12 => self.answer(input, CREDIT_UPDATE),
            13 => {
                self.pause();
                self.look();
            }
            14 => self.event(input),
            _ => self.rare(input),
        }
    }

    fn pick_ports(&self, input: &mut Input<'_>) -> (u32, u32) {
        self.ports[usize::from(input.byte()) % self.ports.len()]
    }

    /// A packet that may be anything, and is mostly close to a good one.
    fn send_packet(&mut self, input: &mut Input<'_>) {
        let flaws = input.byte();
        let operation = if flaws & 1 != 0 { input.half() } else { u16::from(input.byte() % 8) };
        let (host, guest) = match flaws & 6 {
            0 => (u32::from(input.byte() % 4), u32::from(input.byte() % 4)),
            _ => self.pick_ports(input),
        };
        let length = if flaws & 8 != 0 { input.word() } else { u32::from(input.byte()) };
        let there = if flaws & 16 != 0 { u32::from(input.byte()) } else { length.min(1 << 16) };
        let source = if flaws & 32 != 0 { u64::from(input.word()) } else { CID };
        let destination = if flaws & 64 != 0 { u64::from(input.word()) } else { HOST };
        let socket_type = if flaws & 128 != 0 { input.half() } else { 1 };
        let (flags, allocation, forwarded) = (input.byte().into(), input.word(), input.byte().into());
        if operation == REQUEST {
            self.learn(host, guest);
        }
        if let Some(socket) = self.sockets.get_mut(&(host, guest)) {
            socket.is_tainted = true;
        }
        let mut bytes = Vec::new();
        bytes.extend(source.to_le_bytes());
        bytes.extend(destination.to_le_bytes());
        bytes.extend([guest, host, length].map(u32::to_le_bytes).concat());
        bytes.extend([socket_type, operation].map(u16::to_le_bytes).concat());
        bytes.extend([flags, allocation, forwarded].map(u32::to_le_bytes).concat());
        bytes.extend(pattern(0, there as usize));
        self.send(&bytes, input.byte().into());
    }

    /// A good packet on a connection that there is.
    fn answer(&mut self, input: &mut Input<'_>, operation: u16) {
        let (host, guest) = self.pick_ports(input);
        let take = u32::from(input.byte()) << 4;
        let allocation = u32::from(input.half());
        let socket = self.socket(host, guest);
        socket.allocation = socket.allocation.max(allocation);
        socket.forwarded += take.min(socket.received.wrapping_sub(socket.forwarded));
        let header = good_header(host, guest, operation, 0, socket);
        self.send(&header, HEADER);
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let (host, guest) = self.pick_ports(input);
        let length = u32::from(input.half());
        let socket = self.socket(host, guest);
        let mut bytes = good_header(host, guest, READ_WRITE, length, socket);
        bytes.extend(pattern(socket.sent, length as usize));
        socket.sent = socket.sent.wrapping_add(length);
        self.send(&bytes, HEADER + usize::from(input.byte()));
    }

    /// Sends a packet in two pieces, and waits until the device took it.
    fn send(&mut self, bytes: &[u8], cut: usize) {
        let (head, tail) = bytes.split_at(cut.min(bytes.len()));
        if bytes.is_empty() || self.queues[1].free() < 2 {
            return;
        }
        self.memory.write(self.outbox, bytes);
        let pieces = [(0, head.len()), (head.len(), tail.len())];
        let pieces: Vec<Buffer> = pieces
            .into_iter()
            .filter(|&(_, length)| length > 0)
            .map(|(at, length)| Buffer::readable(self.outbox + at as u64, length as u32))
            .collect();
        self.queues[1].add(&pieces);
        self.queues[1].kick();
        if !self.is_raw {
            assert_eq!(self.queues[1].wait_used().written, 0);
        }
    }

    fn send_garbage(&mut self, input: &mut Input<'_>) {
        let length = usize::from(input.byte() % 64);
        let bytes: Vec<u8> = (0..length).map(|_| input.byte()).collect();
        self.taint();
        self.send(&bytes, input.byte().into());
    }

    fn give_buffer(&mut self, input: &mut Input<'_>) {
        let (first, second) = (u32::from(input.half() % 4096), u32::from(input.byte()));
        if self.queues[0].free() < 2 {
            return;
        }
        // One of the places that no buffer of the device's is in.
        let is_used = |address| self.buffers.values().any(|pieces| pieces[0].address == address);
        let Some(address) = (0..16).map(|at| self.pool + at * BUFFER_ROOM).find(|&address| !is_used(address))
        else {
            return;
        };
        let pieces =
            vec![Buffer::writable(address, first), Buffer::writable(address + u64::from(first), second)];
        let head = self.queues[0].add(&pieces);
        self.buffers.insert(head, pieces);
        self.queues[0].kick();
    }

    /// Everybody takes what has come, and checks it.
    fn look(&mut self) {
        while !self.is_raw
            && let Some(used) = self.queues[0].try_used()
        {
            self.take(used.head, used.written as usize);
        }
        while !self.is_raw
            && let Some(used) = self.queues[2].try_used()
        {
            assert!(used.written == 0 || used.written == 4);
        }
        for program in &mut self.programs {
            program.read(&self.sockets);
        }
    }

    fn take(&mut self, head: u16, written: usize) {
        let pieces = self.buffers.remove(&head).expect("a buffer that the device was given");
        if written == 0 {
            return;
        }
        let bytes = self.memory.read(pieces[0].address, written);
        assert!(
            written >= HEADER && written <= pieces.iter().map(|piece| piece.length as usize).sum::<usize>()
        );
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let (host, guest, length) = (word(16), word(20), word(24));
        let operation = word(28) >> 16;
        assert_eq!(u64::from(word(8)), CID);
        assert_eq!(length as usize, written - HEADER);
        match u16::try_from(operation).expect("half a word") {
            REQUEST => {
                // The ports are new, whatever was known of them.
                self.sockets.remove(&(host, guest));
                self.learn(host, guest);
            }
            READ_WRITE => {
                assert!(length > 0);
                if let Some(socket) = self.sockets.get_mut(&(host, guest)).filter(|socket| !socket.is_tainted)
                {
                    assert!(bytes[HEADER..] == pattern(socket.received, length as usize));
                    socket.received += length;
                    assert!(socket.received - socket.forwarded <= socket.allocation);
                }
            }
            RESPONSE | RESET | SHUTDOWN | CREDIT_UPDATE => {}
            other => panic!("the device sent operation {other}"),
        }
    }

    fn socket(&mut self, host: u32, guest: u32) -> &mut Socket {
        self.sockets.entry((host, guest)).or_insert_with(|| Socket { is_tainted: true, ..Socket::default() })
    }

    fn learn(&mut self, host: u32, guest: u32) {
        self.sockets.entry((host, guest)).or_default();
        if !self.ports.contains(&(host, guest)) {
            self.ports.push((host, guest));
        }
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        let Ok(stream) = UnixStream::connect(self.host.folder.join("v")) else { return };
        stream.set_nonblocking(true).expect("a socket that does not wait");
        let choice = input.byte();
        let mut line = match choice {
            0..=15 => (0..input.byte() % 40).map(|_| input.byte()).collect(),
            _ => format!("CONNECT {}\n", choice % 3).into_bytes(),
        };
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            line.truncate(end + 1);
        }
        let _ = unix_socket::send(&stream, &[IoSlice::new(&line)]);
        self.programs.push(Program { stream, line: Some(Vec::new()), written: 0, read: 0 });
    }

    fn program_writes(&mut self, input: &mut Input<'_>) {
        let length = usize::from(input.half());
        if let Some(program) = self.program(input) {
            program.write(length);
        }
    }

    fn program_leaves(&mut self, input: &mut Input<'_>) {
        let how = input.byte() % 4;
        let Some(program) = self.program(input) else { return };
        let _ = match how {
            0 => program.stream.shutdown(Shutdown::Write),
            1 => program.stream.shutdown(Shutdown::Read),
            _ => {
                let at = usize::from(input.byte()) % self.programs.len();
                self.programs.swap_remove(at);
                Ok(())
            }
        };
    }

    fn program(&mut self, input: &mut Input<'_>) -> Option<&mut Program> {
        for service in &self.host.services {
            if let Ok((stream, _)) = service.accept() {
                stream.set_nonblocking(true).expect("a socket that does not wait");
                // The guest's end of these is always tainted: what it sends is not checked.
                self.programs.push(Program { stream, line: None, written: 0, read: 0 });
            }
        }
        let count = self.programs.len();
        self.programs.get_mut(usize::from(input.byte()) % count.max(1))
    }

    fn event(&mut self, input: &mut Input<'_>) {
        if input.byte() & 1 == 0 {
            self.device.reset_transport().expect("a thread");
            self.taint();
        }
        if self.queues[2].free() > 0 {
            self.queues[2].add(&[Buffer::writable(self.outbox, u32::from(input.byte() % 8))]);
            self.queues[2].kick();
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        let index = usize::from(input.byte() % 3);
        let choice = input.byte() % 3;
        self.taint();
        match choice {
            0 => {
                let states = [RECEIVE, TRANSMIT, EVENT].map(|index| self.device.stop_queue(index));
                self.device.reset();
                self.start(states);
            }
            1 => {
                let flags = input.half();
                let next = input.half() % 20;
                let (address, length) = (u64::from(input.word()), input.word());
                let descriptor = RawDescriptor { address, length, flags, next };
                self.is_raw = true;
                self.queues[index].raw_descriptor(input.half() % 16, descriptor);
            }
            _ => {
                self.is_raw = true;
                self.queues[index].raw_available_entry(input.half() % 16, input.half());
                self.queues[index].raw_available_index(input.half());
                self.queues[index].kick();
            }
        }
    }

    /// From here on, nothing is known of the connections that there are.
    fn taint(&mut self) {
        for socket in self.sockets.values_mut() {
            socket.is_tainted = true;
        }
    }
}

impl Program {
    fn write(&mut self, length: usize) {
        if let Ok(count) = unix_socket::send(&self.stream, &[IoSlice::new(&pattern(self.written, length))]) {
            self.written += count as u32;
        }
    }

    /// Reads what has come: a line, if it asked for a connection, and then bytes of the pattern.
    fn read(&mut self, sockets: &HashMap<(u32, u32), Socket>) {
        let mut bytes = [0; 4096];
        while let Some(line) = self.line.as_mut().filter(|line| line.last() != Some(&b'\n')) {
            match self.stream.read(&mut bytes[..1]) {
                Ok(1) => line.push(bytes[0]),
                _ => return,
            }
        }
        let port = self.line.as_ref().map(|line| {
            let text = std::str::from_utf8(line).expect("a line of text");
            let port = text.strip_prefix("OK ").and_then(|port| port.strip_suffix('\n')).expect("a port");
            port.parse::<u32>().expect("a number")
        });
        let is_clean = sockets.iter().any(|(ports, socket)| Some(ports.0) == port && !socket.is_tainted);
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => {
                    assert!(!is_clean || bytes[..count] == pattern(self.read, count));
                    self.read += count as u32;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

fn good_header(host: u32, guest: u32, operation: u16, length: u32, socket: &Socket) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(CID.to_le_bytes());
    bytes.extend(HOST.to_le_bytes());
    bytes.extend([guest, host, length].map(u32::to_le_bytes).concat());
    bytes.extend([1, operation].map(u16::to_le_bytes).concat());
    bytes.extend([0, socket.allocation, socket.forwarded].map(u32::to_le_bytes).concat());
    bytes
}
