//! A driver of a block device behind vhost-user, as QEMU and its guest would be together.

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vmm::virtio::testing::{Buffer, Completion, FrontEnd, GuestQueue, TestMemory};
use vmm_sys::{Interest, Poller};

use super::workload::Workload;

/// `VHOST_F_LOG_ALL`: nothing migrates.
const LOG_ALL: u64 = 1 << 26;

const QUEUE_SIZE: u16 = 256;
const MEMORY: usize = 64 << 20;
const SECTOR: u64 = 512;

/// In what pieces a large request lies in memory.
const PIECE: usize = 64 << 10;

/// How long a device may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

const READ: u32 = 0;
const WRITE: u32 = 1;

/// The most that the requests under way need together.
const ROOM: usize = 8 << 20;
const SLOTS: usize = 64;

pub(crate) struct Driver {
    memory: TestMemory,
    queue: GuestQueue,
    poller: Poller,
    /// Where the headers, the data and the statuses of the requests under way lie.
    headers: u64,
    data: u64,
    statuses: u64,
    /// The session, which ends when this is dropped.
    _front_end: FrontEnd,
}

impl Driver {
    pub(crate) fn connect(socket: &Path) -> Result<Self, Box<dyn Error>> {
        let front_end = FrontEnd::new(UnixStream::connect(socket)?);
        let (mut memory, file) = TestMemory::shared(MEMORY);
        let mut queue = GuestQueue::new(&mut memory, QUEUE_SIZE);
        queue.use_event_index();
        let headers = memory.allocate(16 * SLOTS);
        let statuses = memory.allocate(SLOTS);
        let data = memory.allocate(ROOM + PIECE).next_multiple_of(PIECE as u64);
        front_end.negotiate(LOG_ALL);
        if !front_end.share_memory(MEMORY, &file) {
            return Err("the device refused the memory".into());
        }
        front_end.set_ring(0, &queue, 0);
        if !front_end.enable_ring(0, true) {
            return Err("the device refused the ring".into());
        }
        let poller = Poller::new()?;
        poller.add(queue.interrupt().queue_event(), 0, Interest::READ)?;
        Ok(Self { memory, queue, poller, headers, data, statuses, _front_end: front_end })
    }

    /// Makes so many requests, and says how long they took.
    pub(crate) fn run(&mut self, workload: &Workload, requests: u64) -> Result<Duration, Box<dyn Error>> {
        let mut places = Places::new(workload);
        let mut free: Vec<u64> = (0..u64::from(workload.depth)).collect();
        let mut slots = vec![0; QUEUE_SIZE.into()];
        let began = Instant::now();
        let (mut made, mut done) = (0, 0);
        while done < requests {
            while made < requests
                && let Some(slot) = free.pop()
            {
                let head = self.add(workload, slot, places.next());
                slots[usize::from(head)] = slot;
                self.queue.kick_if_wanted();
                made += 1;
            }
            for completion in self.completions()? {
                let slot = slots[usize::from(completion.head)];
                if self.memory.read(self.statuses + slot, 1) != [0] {
                    return Err(format!("a request of \"{}\" failed", workload.name).into());
                }
                free.push(slot);
                done += 1;
            }
        }
        Ok(began.elapsed())
    }

    fn add(&mut self, workload: &Workload, slot: u64, offset: u64) -> u16 {
        let kind = if workload.write { WRITE } else { READ };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&(offset / SECTOR).to_le_bytes());
        self.memory.write(self.headers + 16 * slot, &header);
        self.memory.write(self.statuses + slot, &[0xff]);
        let mut buffers = vec![Buffer::readable(self.headers + 16 * slot, 16)];
        let start = self.data + slot * workload.block;
        let pieces = (0..workload.block).step_by(PIECE).map(|at| Buffer {
            address: start + at,
            length: u32::try_from((PIECE as u64).min(workload.block - at)).unwrap_or(u32::MAX),
            writable: !workload.write,
        });
        buffers.extend(pieces);
        buffers.push(Buffer::writable(self.statuses + slot, 1));
        self.queue.add_indirect(&buffers)
    }

    /// Takes what is done, and waits until something is.
    fn completions(&mut self) -> Result<Vec<Completion>, Box<dyn Error>> {
        let mut done = Vec::new();
        loop {
            done.extend(std::iter::from_fn(|| self.queue.try_used()));
            if !done.is_empty() {
                return Ok(done);
            }
            self.queue.want_interrupt();
            done.extend(self.queue.try_used());
            if !done.is_empty() {
                continue;
            }
            if self.poller.wait(Some(PATIENCE))?.count() == 0 {
                return Err("the device is silent".into());
            }
            self.queue.interrupt().queue_event().clear()?;
        }
    }
}

/// Where the requests of a workload go, the same each time.
struct Places<'a> {
    workload: &'a Workload,
    next: u64,
    state: u64,
}

impl<'a> Places<'a> {
    fn new(workload: &'a Workload) -> Self {
        Self { workload, next: 0, state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn next(&mut self) -> u64 {
        let blocks = self.workload.span / self.workload.block;
        let block = if self.workload.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state >> 16) % blocks
        } else {
            self.next % blocks
        };
        self.next += 1;
        self.workload.offset + block * self.workload.block
    }
}
