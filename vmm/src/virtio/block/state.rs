//! What the queues of a disk share: the image, the configuration space and the cache mode.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_disk::DiskImage;

/// The unit of the protocol, whatever the disk's own blocks are (5.2.2).
pub(super) const SECTOR_SIZE: u32 = 512;

/// The size that is offered for each queue.
pub(super) const QUEUE_SIZE: u16 = 256;

/// How many segments the driver is told that a request's data may have. Two of a chain's descriptors are the header's
/// and the status'.
const OFFERED_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// How many descriptors a request may have, however the driver cuts it: what goes to the kernel at once is bounded.
pub(super) const MAXIMUM_SEGMENTS: usize = 1000;

/// The bytes of a disk's name (5.2.6).
pub(super) const ID_LENGTH: usize = 20;

/// How many ranges one discard or write-zeroes may name.
pub(super) const MAXIMUM_RANGES: usize = 64;

/// No single request moves more than this; it bounds how long a queue takes to stop. Linux asks for at most 4 MiB
/// unless it is told otherwise.
pub(super) const MAXIMUM_DATA: u32 = 64 << 20;

/// The most of a range of a discard: 1 GiB. It costs metadata only.
pub(super) const MAXIMUM_DISCARD_SECTORS: u32 = 1 << 21;

/// The most of a range of a write-zeroes: 128 MiB. Where the host's file system cannot do it, zeroes are written.
pub(super) const MAXIMUM_ZERO_SECTORS: u32 = 1 << 18;

/// The features of the device (5.2.3).
pub(super) mod feature {
    pub(in super::super) const SEGMENTS_MAX: u64 = 1 << 2;
    pub(in super::super) const READ_ONLY: u64 = 1 << 5;
    pub(in super::super) const BLOCK_SIZE: u64 = 1 << 6;
    pub(in super::super) const FLUSH: u64 = 1 << 9;
    pub(in super::super) const TOPOLOGY: u64 = 1 << 10;
    pub(in super::super) const CONFIG_WRITEBACK: u64 = 1 << 11;
    pub(in super::super) const MULTIQUEUE: u64 = 1 << 12;
    pub(in super::super) const DISCARD: u64 = 1 << 13;
    pub(in super::super) const WRITE_ZEROES: u64 = 1 << 14;
}

const CONFIG_LENGTH: usize = 60;
const WRITEBACK_OFFSET: u64 = 32;

/// The disk, as all of its queues see it.
pub(super) struct BlockState {
    pub(super) image: Arc<dyn DiskImage>,
    pub(super) id: [u8; ID_LENGTH],
    queues: u16,
    /// The driver's choice, where it negotiated to have one: whether a write may be lost before the next flush.
    writeback: AtomicBool,
}

impl BlockState {
    pub(super) fn new(image: Arc<dyn DiskImage>, serial: &str, queues: u16) -> Self {
        let mut id = [0; ID_LENGTH];
        id.iter_mut().zip(serial.bytes()).for_each(|(byte, character)| *byte = character);
        Self { image, id, queues, writeback: AtomicBool::new(true) }
    }

    /// The disk's size in sectors; a rest that is no sector cannot be reached.
    pub(super) fn capacity(&self) -> u64 {
        self.image.size() / u64::from(SECTOR_SIZE)
    }

    pub(super) fn features(&self) -> u64 {
        let common = feature::SEGMENTS_MAX | feature::BLOCK_SIZE | feature::FLUSH | feature::TOPOLOGY;
        let queues = if self.queues > 1 { feature::MULTIQUEUE } else { 0 };
        let writes = if self.image.read_only() {
            feature::READ_ONLY
        } else {
            feature::CONFIG_WRITEBACK | feature::DISCARD | feature::WRITE_ZEROES
        };
        common | queues | writes
    }

    /// Whether a write may be kept in the host's cache until the driver asks for a flush (5.2.6.2).
    pub(super) fn writeback(&self, features: u64) -> bool {
        if features & feature::CONFIG_WRITEBACK != 0 {
            self.writeback.load(Ordering::Relaxed)
        } else {
            features & feature::FLUSH != 0
        }
    }

    pub(super) fn reset(&self) {
        self.writeback.store(true, Ordering::Relaxed);
    }

    pub(super) fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = self.config();
        let start = usize::try_from(offset).unwrap_or(CONFIG_LENGTH).min(CONFIG_LENGTH);
        let rest = config[start..].iter().copied().chain(std::iter::repeat(0));
        bytes.iter_mut().zip(rest).for_each(|(byte, value)| *byte = value);
    }

    /// One field can be written: the cache mode.
    pub(super) fn write_config(&self, offset: u64, bytes: &[u8]) {
        let at = WRITEBACK_OFFSET.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let Some(&mode) = at.and_then(|at| bytes.get(at)) {
            self.writeback.store(mode != 0, Ordering::Relaxed);
        }
    }

    /// The configuration space (5.2.4).
    fn config(&self) -> [u8; CONFIG_LENGTH] {
        let mut config = [0; CONFIG_LENGTH];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.capacity().to_le_bytes());
        put(12, &OFFERED_SEGMENTS.to_le_bytes());
        put(20, &SECTOR_SIZE.to_le_bytes());
        // The host's blocks are of 4 KiB: eight sectors, beginning with the first.
        put(24, &[3, 0]);
        put(26, &8u16.to_le_bytes());
        put(32, &[u8::from(self.writeback.load(Ordering::Relaxed))]);
        put(34, &self.queues.to_le_bytes());
        put(36, &MAXIMUM_DISCARD_SECTORS.to_le_bytes());
        let ranges = u32::try_from(MAXIMUM_RANGES).unwrap_or(1);
        put(40, &ranges.to_le_bytes());
        put(44, &8u32.to_le_bytes());
        put(48, &MAXIMUM_ZERO_SECTORS.to_le_bytes());
        put(52, &ranges.to_le_bytes());
        put(56, &[1]);
        config
    }
}
