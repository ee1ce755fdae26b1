//! The device's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! The driver writes everything that is read here, and it is hostile: a layout is checked before it is used, each
//! walk is bounded, and what breaks the rules breaks the queue, never the device's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use snafu::{OptionExt, ResultExt, Snafu, ensure};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryError};
use vmm_sys::Event;

use super::chain::{Chain, Segment};
use super::device::BadLayoutSnafu;
use super::{
    DeviceError, Interrupt, QueueLayout, QueueResources, QueueState, RING_EVENT_INDEX,
    RING_INDIRECT_DESCRIPTORS, Vector,
};
use crate::memory::{GuestMemory, Regions, Snapshot};

/// The largest queue that is served, and the longest chain. A transport that offers sizes itself offers what the
/// device asks for ([`VirtioDevice::queue_sizes`](super::VirtioDevice::queue_sizes)); behind vhost-user the front end
/// offers what it likes, and QEMU's MMIO transport tells every driver that it may have this many.
pub const LARGEST_QUEUE: u16 = 1024;

const DESCRIPTOR_SIZE: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// How the driver broke the rules of its queue. Nothing more is taken from the queue until the driver resets it.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum QueueError {
    /// More chains are available than the queue holds (virtio 1.2, 2.7.13.3).
    #[snafu(display(
        "the available ring ran from {next} to {available}, further than the queue's size {size}"
    ))]
    AvailableIndex {
        /// The next entry that we would have taken.
        next: u16,
        /// The driver's index.
        available: u16,
        /// The number of descriptors.
        size: u16,
    },
    /// A descriptor's number is outside its table.
    #[snafu(display("descriptor {index} lies outside its table of {size}"))]
    DescriptorIndex {
        /// The number.
        index: u16,
        /// The size of the table.
        size: u32,
    },
    /// A chain does not end within the size of the queue (2.7.5.3.1); a loop never does.
    #[snafu(display("a chain has more than {limit} descriptors"))]
    ChainTooLong {
        /// How many there may be.
        limit: u16,
    },
    /// A chain names more bytes than a chain may (2.7.5.2).
    #[snafu(display("a chain is longer than 4 GiB"))]
    TooManyBytes,
    /// A part to read follows one to write (2.7.4.2).
    #[snafu(display("a chain has a part to read after one to write"))]
    ReadAfterWrite,
    /// An indirect table without the feature, within another, with a successor or of an impossible length (2.7.5.3).
    #[snafu(display("a table of indirect descriptors is not allowed: {reason}"))]
    IndirectTable {
        /// Which of these.
        reason: &'static str,
    },
    /// A descriptor names memory that the guest has not.
    #[snafu(display("the guest has no memory at {address:#x} for {length} bytes"))]
    NoMemory {
        /// The address.
        address: u64,
        /// The length.
        length: u32,
    },
    /// The rings or what a chain names cannot be reached (any more).
    #[snafu(display("cannot reach the guest's memory"))]
    Memory {
        /// The cause.
        source: GuestMemoryError,
    },
    /// The rings cannot be reached (any more).
    #[snafu(display("cannot reach the queue's rings"))]
    Rings {
        /// The cause.
        source: virtio_queue::Error,
    },
    /// A chain has fewer bytes than its device's protocol needs. This does not break the queue.
    #[snafu(display("a chain has {left} bytes left where {wanted} are needed"))]
    ShortChain {
        /// What was needed.
        wanted: usize,
        /// What there was.
        left: u32,
    },
    /// The queue was broken before.
    #[snafu(display("the queue is broken"))]
    Broken,
    /// The driver cannot be told of used buffers.
    #[snafu(display("cannot raise the queue's interrupt"))]
    Interrupt {
        /// The cause.
        source: std::io::Error,
    },
}

/// The device's side of a virtqueue that the driver made ready.
///
/// One thread serves it: it waits for [`Virtqueue::kick`], takes chains with [`Virtqueue::pop`], gives each back by
/// [`Virtqueue::complete`] and calls [`Virtqueue::notify`]; [`QueueWorker`](super::QueueWorker) is that loop for
/// devices that answer each chain at once.
pub struct Virtqueue {
    index: u16,
    queue: Queue,
    memory: GuestMemory,
    kick: Event,
    interrupt: Arc<dyn Interrupt>,
    indirect: bool,
    broken: bool,
}

impl Virtqueue {
    /// Checks where the driver has put the queue, and takes it over. It may have up to [`LARGEST_QUEUE`] descriptors.
    pub fn new(
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<Self, DeviceError> {
        let QueueResources { memory, layout, kick, interrupt } = resources;
        if let Err(reason) = check_layout(&layout, &memory.memory()) {
            return BadLayoutSnafu { index, reason }.fail();
        }
        let state = state.unwrap_or_default();
        let event_index = features & RING_EVENT_INDEX != 0;
        let Ok(queue) = make_queue(&layout, event_index, state) else {
            return BadLayoutSnafu { index, reason: "its size or alignment" }.fail();
        };
        let indirect = features & RING_INDIRECT_DESCRIPTORS != 0;
        Ok(Self { index, queue, memory, kick, interrupt, indirect, broken: false })
    }

    /// Whether the driver may put the descriptors of a chain into a table of their own (virtio 1.2, 2.7.5.3).
    pub fn has_indirect(&self) -> bool {
        self.indirect
    }

    /// Which queue of its device it is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Raised when the driver made chains available. Clear it before taking them.
    pub fn kick(&self) -> &Event {
        &self.kick
    }

    /// The guest's memory as it is now, for one piece of work.
    pub fn memory(&self) -> Snapshot {
        self.memory.memory()
    }

    /// Whether the driver broke the queue's rules.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the next chain that the driver made available; `false` if there is none. Its segments lie within
    /// `memory`, readable ones first, and their number and length are bounded.
    ///
    /// An error marks the queue broken and tells the transport, once; from then on nothing is taken.
    pub fn pop(&mut self, memory: &Regions, chain: &mut Chain) -> Result<bool, QueueError> {
        ensure!(!self.broken, BrokenSnafu);
        let popped = self.try_pop(memory, chain);
        self.note(popped)
    }

    /// How many chains the driver has made available that are not popped yet; it may lie.
    pub fn waiting(&self, memory: &Regions) -> u16 {
        // What cannot be read breaks the queue when the next chain is popped.
        let available = self.queue.avail_idx(memory, Ordering::Relaxed);
        available.map_or(0, |available| available.0.wrapping_sub(self.queue.next_avail()))
    }

    /// Looks at a chain that waits, so many behind the next one, as [`Virtqueue::pop`] will take it if the driver leaves it
    /// alone; `false` if there is none. What is wrong with it is told when it is popped.
    pub fn peek(&self, memory: &Regions, behind: u16, chain: &mut Chain) -> bool {
        let waiting = self.waiting(memory);
        if self.broken || waiting > self.queue.size() || behind >= waiting {
            return false;
        }
        let position = self.queue.next_avail().wrapping_add(behind);
        self.take(memory, position, chain).is_ok()
    }

    /// Gives the last chain that was popped back to the available ring, untouched.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Hands a chain back to the driver, with the number of bytes that were written to it from its beginning.
    pub fn complete(&mut self, memory: &Regions, head: u16, written: u32) -> Result<(), QueueError> {
        ensure!(!self.broken, BrokenSnafu);
        let used = self.queue.add_used(memory, head, written).context(RingsSnafu);
        self.note(used)
    }

    /// Interrupts the driver if chains were completed since the last call and it wants to know.
    pub fn notify(&mut self, memory: &Regions) -> Result<(), QueueError> {
        ensure!(!self.broken, BrokenSnafu);
        let wanted = self.wants_interrupt(memory);
        if self.note(wanted)? {
            self.interrupt.trigger(Vector::Queue(self.index)).context(InterruptSnafu)?;
        }
        Ok(())
    }

    /// Asks the driver not to kick while we look at the ring anyway.
    pub fn disable_kicks(&mut self, memory: &Regions) -> Result<(), QueueError> {
        ensure!(!self.broken, BrokenSnafu);
        let done = self.queue.disable_notification(memory).context(RingsSnafu);
        self.note(done)
    }

    /// Asks the driver to kick for the next chain. `true`: one came meanwhile, for which there may be no kick.
    pub fn enable_kicks(&mut self, memory: &Regions) -> Result<bool, QueueError> {
        ensure!(!self.broken, BrokenSnafu);
        let more = self.queue.enable_notification(memory).context(RingsSnafu);
        self.note(more)
    }

    /// Marks the queue broken by a rule of the device's own protocol, and tells the transport.
    pub fn break_down(&mut self) {
        if !self.broken {
            self.broken = true;
            self.interrupt.needs_reset(self.index);
        }
    }

    /// Where the queue goes on when it is started again.
    pub fn into_state(self) -> QueueState {
        QueueState { next_available: self.queue.next_avail(), next_used: self.queue.next_used() }
    }

    fn note<T>(&mut self, result: Result<T, QueueError>) -> Result<T, QueueError> {
        if result.is_err() {
            self.break_down();
        }
        result
    }

    fn wants_interrupt(&mut self, memory: &Regions) -> Result<bool, QueueError> {
        // With the event index, this also says "no" if nothing was completed since.
        let wanted = self.queue.needs_notification(memory).context(RingsSnafu)?;
        if self.queue.event_idx_enabled() {
            return Ok(wanted);
        }
        // Without it a flag decides (2.7.10), which the crate leaves to us.
        let flags =
            memory.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed).context(MemorySnafu)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    fn try_pop(&mut self, memory: &Regions, chain: &mut Chain) -> Result<bool, QueueError> {
        let (next, size) = (self.queue.next_avail(), self.queue.size());
        let available = self.queue.avail_idx(memory, Ordering::Acquire).context(RingsSnafu)?.0;
        if available == next {
            return Ok(false);
        }
        let waiting = available.wrapping_sub(next);
        ensure!(waiting <= size, AvailableIndexSnafu { next, available, size });
        self.take(memory, next, chain)?;
        self.queue.set_next_avail(next.wrapping_add(1));
        Ok(true)
    }

    /// Fills `chain` from an entry of the available ring.
    fn take(&self, memory: &Regions, position: u16, chain: &mut Chain) -> Result<(), QueueError> {
        // The ring follows two fields of two bytes; the whole of it was found to be in memory.
        let entry = self.queue.avail_ring() + 4 + 2 * u64::from(position % self.queue.size());
        let head = u16::from_le(memory.load(GuestAddress(entry), Ordering::Relaxed).context(MemorySnafu)?);
        chain.clear(head);
        self.walk(memory, head, chain)
    }

    /// Follows a chain through the descriptor table and, at its end, perhaps through an indirect one.
    fn walk(&self, memory: &Regions, head: u16, chain: &mut Chain) -> Result<(), QueueError> {
        let size = self.queue.size();
        let mut table = Table { address: GuestAddress(self.queue.desc_table()), size: size.into() };
        // The specification bounds a chain by the queue's size. Linux holds to it in the table itself, but its
        // indirect chains may have as many segments as the device's configuration allows, however small the queue.
        let mut limit = size;
        let mut in_indirect = false;
        let mut index = head;
        let mut seen = 0;
        loop {
            ensure!(seen < limit, ChainTooLongSnafu { limit });
            seen += 1;
            let descriptor = table.descriptor(memory, index)?;
            let flags = descriptor.flags();
            if flags & INDIRECT != 0 {
                ensure!(self.indirect, IndirectTableSnafu { reason: "it was not negotiated" });
                ensure!(!in_indirect, IndirectTableSnafu { reason: "it is within another" });
                ensure!(flags & NEXT == 0, IndirectTableSnafu { reason: "its descriptor has a successor" });
                table = Table::indirect(&descriptor)?;
                limit = LARGEST_QUEUE;
                in_indirect = true;
                index = 0;
                continue;
            }
            chain.push(memory, &descriptor)?;
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next();
        }
    }
}

impl Chain {
    fn push(&mut self, memory: &Regions, descriptor: &Descriptor) -> Result<(), QueueError> {
        let (address, length) = (descriptor.addr(), descriptor.len());
        let is_in_memory = memory.check_range(address, length as usize);
        ensure!(is_in_memory, NoMemorySnafu { address: address.raw_value(), length });
        let total = self.readable_length.checked_add(self.writable_length);
        total.and_then(|total| total.checked_add(length)).context(TooManyBytesSnafu)?;
        if descriptor.flags() & WRITE != 0 {
            self.writable_length += length;
        } else {
            ensure!(self.segments.len() == self.readable_segments, ReadAfterWriteSnafu);
            self.readable_length += length;
            self.readable_segments += 1;
        }
        self.segments.push(Segment { address, length });
        Ok(())
    }
}

struct Table {
    address: GuestAddress,
    size: u32,
}

impl Table {
    fn indirect(descriptor: &Descriptor) -> Result<Self, QueueError> {
        let length = u64::from(descriptor.len());
        ensure!(length != 0, IndirectTableSnafu { reason: "it is empty" });
        let whole = length.is_multiple_of(DESCRIPTOR_SIZE);
        ensure!(whole, IndirectTableSnafu { reason: "its length is not a multiple of a descriptor's" });
        // Entries past what an index can name are never reached, and the chain within is bounded.
        Ok(Self { address: descriptor.addr(), size: descriptor.len() / 16 })
    }

    fn descriptor(&self, memory: &Regions, index: u16) -> Result<Descriptor, QueueError> {
        ensure!(u32::from(index) < self.size, DescriptorIndexSnafu { index, size: self.size });
        let no_memory = NoMemorySnafu { address: self.address.raw_value(), length: 16u32 };
        let address = self.address.checked_add(DESCRIPTOR_SIZE * u64::from(index)).context(no_memory)?;
        memory.read_obj(address).context(MemorySnafu)
    }
}

fn make_queue(
    layout: &QueueLayout,
    event_index: bool,
    state: QueueState,
) -> Result<Queue, virtio_queue::Error> {
    let mut queue = Queue::new(LARGEST_QUEUE)?;
    queue.try_set_size(layout.size)?;
    queue.try_set_desc_table_address(layout.descriptor_table)?;
    queue.try_set_avail_ring_address(layout.available_ring)?;
    queue.try_set_used_ring_address(layout.used_ring)?;
    queue.set_event_idx(event_index);
    queue.set_next_avail(state.next_available);
    queue.set_next_used(state.next_used);
    queue.set_ready(true);
    Ok(queue)
}

/// The rules of virtio 1.2, 2.7 for the three areas; says which one does not hold.
fn check_layout(layout: &QueueLayout, memory: &Regions) -> Result<(), String> {
    let size = layout.size;
    if !size.is_power_of_two() || size > LARGEST_QUEUE {
        return Err(format!("a size of {size} is no power of two up to {LARGEST_QUEUE}"));
    }
    // Both rings have two fields in front and, for the event index, one behind.
    let entries = u64::from(size);
    let areas = [
        ("descriptor table", layout.descriptor_table, 16, DESCRIPTOR_SIZE * entries),
        ("available ring", layout.available_ring, 2, 6 + 2 * entries),
        ("used ring", layout.used_ring, 4, 6 + 8 * entries),
    ];
    for (name, address, alignment, length) in areas {
        let start = address.raw_value();
        if !start.is_multiple_of(alignment) {
            return Err(format!("its {name} at {start:#x} is not aligned to {alignment} bytes"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if address.checked_add(length as u64).is_none() || !memory.check_range(address, length) {
            return Err(format!("its {name} at {start:#x} is not in the guest's memory"));
        }
    }
    Ok(())
}

/// Where the driver's used ring stands: a queue that ran before goes on from there (vhost-user's `SET_VRING_BASE`
/// tells only the available ring's place).
pub fn used_index(layout: &QueueLayout, memory: &Regions) -> Result<u16, QueueError> {
    let address = layout.used_ring.checked_add(2);
    let address = address.context(NoMemorySnafu { address: layout.used_ring.raw_value(), length: 2u32 })?;
    memory.load(address, Ordering::Acquire).map(u16::from_le).context(MemorySnafu)
}
