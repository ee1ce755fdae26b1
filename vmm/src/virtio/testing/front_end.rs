//! The front end's side of vhost-user: what QEMU would send.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vmm_sys::fd_passing;

use super::{GuestQueue, PATIENCE};

const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A front end that sends what it is told, sense or nonsense.
pub struct FrontEnd {
    socket: UnixStream,
}

/// Addresses of the front end's own are the guest's, moved by this.
pub const USER_OFFSET: u64 = 0x7f00_0000_0000;

impl FrontEnd {
    /// Speaks through a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout for the socket");
        Self { socket }
    }

    /// The socket itself.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends a request that has no answer.
    pub fn send(&self, code: u32, payload: &[u8], files: &[BorrowedFd<'_>]) {
        self.send_with_flags(code, 1, payload, files).expect("a back end that reads");
    }

    /// Sends a request with an answer, and returns its payload.
    pub fn ask(&self, code: u32, payload: &[u8]) -> Vec<u8> {
        self.send(code, payload, &[]);
        self.receive(code)
    }

    /// The same, where both are a number.
    pub fn ask_u64(&self, code: u32) -> u64 {
        let answer = self.ask(code, &[]);
        u64::from_ne_bytes(answer.try_into().expect("an answer of eight bytes"))
    }

    /// Sends a request and asks for its acknowledgement; says whether it was accepted.
    pub fn acknowledged(&self, code: u32, payload: &[u8], files: &[BorrowedFd<'_>]) -> bool {
        self.send_with_flags(code, 1 | NEED_REPLY, payload, files).expect("a back end that reads");
        self.receive(code) == 0u64.to_ne_bytes()
    }

    /// Sends a header with any flags, and what follows it.
    pub fn send_with_flags(
        &self,
        code: u32,
        flags: u32,
        payload: &[u8],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        let size = u32::try_from(payload.len()).expect("a short payload");
        let mut bytes = [code, flags, size].map(u32::to_ne_bytes).as_flattened().to_vec();
        bytes.extend_from_slice(payload);
        fd_passing::send(&self.socket, &bytes, files)
    }

    /// Waits for the answer to a request.
    pub fn receive(&self, code: u32) -> Vec<u8> {
        let mut header = [0; 12];
        (&self.socket).read_exact(&mut header).expect("an answer");
        let field =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        assert_eq!((field(0), field(4)), (code, 1 | REPLY), "the answer's request and flags");
        let mut payload = vec![0; field(8) as usize];
        (&self.socket).read_exact(&mut payload).expect("the answer's payload");
        payload
    }

    /// Whether the back end has closed the connection; waits for that.
    pub fn wait_for_close(&self) {
        let mut rest = Vec::new();
        let end = (&self.socket).read_to_end(&mut rest);
        let closed = end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
        assert!(closed, "the back end keeps the connection");
    }

    /// Negotiates all that is offered but what `without` names, with acknowledgements.
    pub fn negotiate(&self, without: u64) -> u64 {
        let features = self.ask_u64(1) & !without;
        let protocol = self.ask_u64(15);
        self.send(16, &protocol.to_ne_bytes(), &[]);
        self.send(3, &[], &[]);
        assert!(self.acknowledged(2, &features.to_ne_bytes(), &[]));
        features
    }

    /// Shares a file as the guest's memory from address 0.
    pub fn share_memory(&self, size: usize, file: impl AsFd) -> bool {
        let region = [0, size as u64, USER_OFFSET, 0];
        self.acknowledged(5, &memory_table(&[region]), &[file.as_fd()])
    }

    /// Describes a ring and gives its events, all but enabling it.
    pub fn set_ring(&self, ring: u32, queue: &GuestQueue, base: u16) {
        let layout = queue.layout();
        self.send(8, &pair(ring, layout.size.into()), &[]);
        self.send(10, &pair(ring, base.into()), &[]);
        let mut addresses = pair(ring, 0);
        for area in [layout.descriptor_table, layout.used_ring, layout.available_ring] {
            addresses.extend_from_slice(&(area.0 + USER_OFFSET).to_ne_bytes());
        }
        addresses.extend_from_slice(&0u64.to_ne_bytes());
        self.send(9, &addresses, &[]);
        self.send(12, &u64::from(ring).to_ne_bytes(), &[queue.kick_event().as_fd()]);
        self.send(13, &u64::from(ring).to_ne_bytes(), &[queue.interrupt().queue_event().as_fd()]);
    }

    /// Enables or disables a ring.
    pub fn enable_ring(&self, ring: u32, enabled: bool) -> bool {
        self.acknowledged(18, &pair(ring, enabled.into()), &[])
    }

    /// Stops a ring, and says where it stood.
    pub fn stop_ring(&self, ring: u32) -> u32 {
        let answer = self.ask(11, &pair(ring, 0));
        u32::from_ne_bytes(answer[4..].try_into().expect("an answer of eight bytes"))
    }
}

/// Two numbers, as the messages about rings carry them.
pub fn pair(first: u32, second: u32) -> Vec<u8> {
    [first, second].map(u32::to_ne_bytes).as_flattened().to_vec()
}

/// A table of regions: guest address, size, user address, offset.
pub fn memory_table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut table = pair(u32::try_from(regions.len()).expect("a short table"), 0);
    regions.iter().flatten().for_each(|field| table.extend_from_slice(&field.to_ne_bytes()));
    table
}
