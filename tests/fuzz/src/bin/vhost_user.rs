//! The vhost-user transport under a front end that sends anything, with descriptors of all kinds.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::block::Block;
use vmm::virtio::testing::{FrontEnd, GuestQueue, MemoryDisk, TestMemory, USER_OFFSET, memory_table, pair};
use vmm::virtio::transport::vhost_user::VhostUserServer;
use vmm_sys::{Event, fd_passing};

const MEMORY: usize = 1 << 18;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A message with a proper header.
    Message { code: Code, need_reply: bool, payload: Vec<u8>, files: Vec<FileKind> },
    /// The message that names a ring and a number.
    Ring { code: Code, ring: u8, value: u32 },
    /// The message that gives an event to a ring.
    RingFile { code: Code, ring: u16, file: FileKind },
    /// The table that shares the guest's memory, or nearly so.
    MemoryTable { address: u64, size: u64, offset: u64, file: FileKind },
    /// Features as they should be.
    Negotiate,
    /// Memory and a ring as they should be, and the ring enabled.
    Start { ring: u8, base: u16 },
    /// What the driver would do.
    Kick { ring: u8, head: u8, index: u16 },
}

/// The requests that exist, and others.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Code(u8);

impl Code {
    fn number(self) -> u32 {
        u32::from(self.0 % 44)
    }
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum FileKind {
    GuestMemory,
    UnsealedMemory,
    Event,
    Socket,
    Pipe,
    Folder,
}

struct Files {
    guest_memory: OwnedFd,
    unsealed_memory: OwnedFd,
    event: Event,
    socket: UnixStream,
    pipe: OwnedFd,
    folder: OwnedFd,
}

impl Files {
    fn file(&self, kind: FileKind) -> BorrowedFd<'_> {
        match kind {
            FileKind::GuestMemory => self.guest_memory.as_fd(),
            FileKind::UnsealedMemory => self.unsealed_memory.as_fd(),
            FileKind::Event => self.event.as_fd(),
            FileKind::Socket => self.socket.as_fd(),
            FileKind::Pipe => self.pipe.as_fd(),
            FileKind::Folder => self.folder.as_fd(),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let device = Block::new(Arc::new(MemoryDisk::new(vec![0; 64 * 512])), "fuzz", 2);
    let mut server = VhostUserServer::start(Box::new(device), ours, "fuzz").expect("a server");

    let (mut memory, guest_memory) = TestMemory::shared(MEMORY);
    let mut queues = [0; 2].map(|_| GuestQueue::with_table_room(&mut memory, 16, 1));
    let header = memory.allocate_bytes(&[0; 16]);
    let data = memory.allocate(513);
    for queue in &mut queues {
        use vmm::virtio::testing::Buffer;
        queue.add(&[Buffer::readable(header, 16), Buffer::writable(data, 513)]);
    }
    let files = Files {
        guest_memory,
        unsealed_memory: std::fs::File::open("/proc/self/exe").expect("our own file").into(),
        event: Event::new().expect("an event"),
        socket: UnixStream::pair().expect("a pair of sockets").0,
        pipe: std::io::pipe().expect("a pipe").0.into(),
        folder: std::fs::File::open("/").expect("the root folder").into(),
    };
    let front_end = FrontEnd::new(theirs);
    front_end.socket().set_nonblocking(true).expect("a socket that does not wait");
    for step in &steps {
        run(step, &front_end, &queues, &files);
        drain(front_end.socket());
    }
    // The server reads what is left, sees the end and closes; or it is stopped in the middle.
    if steps.len() % 2 == 0 {
        let _closed = front_end.socket().shutdown(Shutdown::Write);
        front_end.socket().set_nonblocking(false).expect("a socket that waits");
        front_end.wait_for_close();
    }
    server.stop();
    assert!(server.end().is_some());
});

/// Sends what a step says. The server may have closed the connection long ago.
fn run(step: &Step, front_end: &FrontEnd, queues: &[GuestQueue; 2], files: &Files) {
    let send = |code: u32, payload: &[u8], kinds: &[FileKind]| {
        let sent: Vec<_> =
            kinds.iter().take(fd_passing::MAX_DESCRIPTORS).map(|kind| files.file(*kind)).collect();
        let _ended = front_end.send_with_flags(code, 1, payload, &sent);
    };
    let queue = |ring: u8| &queues[usize::from(ring) % 2];
    match step {
        Step::Bytes(bytes) => drop(front_end.socket().write(bytes)),
        Step::Message { code, need_reply, payload, files: kinds } => {
            let flags = 1 | u32::from(*need_reply) << 3;
            let sent: Vec<_> =
                kinds.iter().take(fd_passing::MAX_DESCRIPTORS).map(|kind| files.file(*kind)).collect();
            let _ended = front_end.send_with_flags(code.number(), flags, payload, &sent);
        }
        Step::Ring { code, ring, value } => send(code.number(), &pair((*ring).into(), *value), &[]),
        Step::RingFile { code, ring, file } => {
            send(code.number(), &u64::from(*ring).to_ne_bytes(), std::slice::from_ref(file));
        }
        Step::MemoryTable { address, size, offset, file } => {
            send(5, &memory_table(&[[*address, *size, USER_OFFSET, *offset]]), std::slice::from_ref(file));
        }
        Step::Negotiate => {
            send(16, &(1u64 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 13).to_ne_bytes(), &[]);
            send(2, &(1u64 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 9).to_ne_bytes(), &[]);
        }
        Step::Start { ring, base } => {
            send(5, &memory_table(&[[0, MEMORY as u64, USER_OFFSET, 0]]), &[FileKind::GuestMemory]);
            let (layout, ring_number) = (queue(*ring).layout(), u32::from(*ring % 2));
            send(8, &pair(ring_number, layout.size.into()), &[]);
            send(10, &pair(ring_number, (*base).into()), &[]);
            let mut addresses = pair(ring_number, 0);
            for area in [layout.descriptor_table, layout.used_ring, layout.available_ring] {
                addresses.extend_from_slice(&(area.0 + USER_OFFSET).to_ne_bytes());
            }
            addresses.extend_from_slice(&[0; 8]);
            send(9, &addresses, &[]);
            let ring_file = u64::from(ring_number).to_ne_bytes();
            let _ended = front_end.send_with_flags(12, 1, &ring_file, &[queue(*ring).kick_event().as_fd()]);
            send(13, &ring_file, &[FileKind::Event]);
            send(18, &pair(ring_number, 1), &[]);
        }
        Step::Kick { ring, head, index } => {
            queue(*ring).raw_available_entry(index.wrapping_sub(1), u16::from(*head) % 16);
            queue(*ring).raw_available_index(*index);
            queue(*ring).kick();
        }
    }
}

/// Reads the answers, so that the server is never held up by them.
fn drain(mut socket: &UnixStream) {
    let mut answers = [0; 4096];
    while socket.read(&mut answers).is_ok_and(|count| count > 0) {}
}
