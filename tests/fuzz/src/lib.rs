//! What the fuzz targets of the virtio devices share: a driver that does what the fuzzer says.

pub mod scratch;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vmm::virtio::testing::{Buffer, GuestQueue, RawDescriptor, ServedQueue, TestMemory};
use vmm::virtio::{QueueHandler, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS};

/// The guest's memory: small, so that what the fuzzer names is often there.
pub const MEMORY: usize = 1 << 18;

/// No more chains than this are served at once.
const SERVED: u32 = 64;

/// Something that a driver does. Most of it breaks the rules.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Writes an entry of the descriptor table.
    Descriptor { index: u8, place: Place, length: u32, flags: u8, next: u8 },
    /// Writes an entry of the available ring.
    RingEntry { at: u8, head: u16 },
    /// Writes the available ring's index.
    RingIndex(u16),
    /// Writes the available ring's flags and event index.
    RingHints { flags: u16, used_event: u16 },
    /// Writes into memory.
    Bytes { place: Place, bytes: [u8; 16] },
    /// Makes a chain available as a driver should.
    Chain { pieces: Vec<Piece>, indirect: bool },
    /// Lets the device serve what is available.
    Serve,
    /// Stops the queue and starts it again.
    Restart,
}

/// A place in the guest's memory, now and then outside it.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Place {
    /// In the first pages, where the rings are.
    Near(u16),
    /// Anywhere.
    Far(u64),
}

impl Place {
    /// The address.
    pub fn address(self) -> u64 {
        match self {
            Self::Near(address) => u64::from(address) * 4,
            Self::Far(address) => address,
        }
    }
}

/// A piece of a chain: some bytes to read, or some room to write.
#[derive(Arbitrary, Debug)]
pub enum Piece {
    /// Bytes of the fuzzer's choice.
    Readable(Vec<u8>),
    /// Room of so many bytes.
    Writable(u16),
}

/// Runs steps against what serves a queue, which `make_handler` makes for each start.
pub fn drive<H: QueueHandler>(steps: &[Step], event_index: bool, make_handler: impl Fn(u64) -> H) {
    let features = RING_INDIRECT_DESCRIPTORS | if event_index { RING_EVENT_INDEX } else { 0 };
    let mut memory = TestMemory::new(MEMORY);
    let mut queue = GuestQueue::with_table_room(&mut memory, 16, 16);
    let start = |queue: &GuestQueue, state| {
        ServedQueue::new(queue.resources(), features, state, make_handler(features)).expect("a good layout")
    };
    let mut device = start(&queue, None);
    for step in steps {
        match step {
            Step::Descriptor { index, place, length, flags, next } => queue.raw_descriptor(
                u16::from(*index) % 16,
                RawDescriptor {
                    address: place.address(),
                    length: *length,
                    flags: (*flags).into(),
                    next: (*next).into(),
                },
            ),
            Step::RingEntry { at, head } => queue.raw_available_entry((*at).into(), *head),
            Step::RingIndex(index) => queue.raw_available_index(*index),
            Step::RingHints { flags, used_event } => {
                queue.raw_available_flags(*flags);
                queue.raw_used_event(*used_event);
            }
            Step::Bytes { place, bytes } => {
                let address = place.address();
                if address <= (MEMORY - bytes.len()) as u64 {
                    memory.write(address, bytes);
                }
            }
            Step::Chain { pieces, indirect } => add(&mut memory, &mut queue, pieces, *indirect),
            // An error breaks the queue, and everything after it must be refused.
            Step::Serve => drop(device.serve(SERVED)),
            Step::Restart => {
                let state = device.stop();
                device = start(&queue, Some(state));
            }
        }
    }
    drop(device.serve(SERVED));
}

/// Makes a chain of pieces available as a driver should, as long as there is room for it.
pub fn add(memory: &mut TestMemory, queue: &mut GuestQueue, pieces: &[Piece], indirect: bool) {
    let pieces = &pieces[..pieces.len().min(16)];
    if pieces.is_empty() || queue.free() < pieces.len() {
        return;
    }
    let mut buffers = Vec::new();
    for piece in pieces {
        let length = match piece {
            Piece::Readable(bytes) => bytes.len(),
            Piece::Writable(length) => usize::from(*length),
        };
        let Some(address) = memory.try_allocate(length) else { return };
        let writable = matches!(piece, Piece::Writable(_));
        if let Piece::Readable(bytes) = piece {
            memory.write(address, bytes);
        }
        let length = u32::try_from(length).expect("a short piece");
        buffers.push(Buffer { address, length, writable });
    }
    if indirect {
        queue.add_indirect(&buffers);
    } else {
        queue.add(&buffers);
    }
}
