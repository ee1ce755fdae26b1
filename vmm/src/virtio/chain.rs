//! A chain of descriptors that the driver made available: its two halves, and how a device reads and writes them.

use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::queue::{MemorySnafu, QueueError, ShortChainSnafu};
use crate::memory::Regions;
use snafu::{ResultExt, ensure};

/// A piece of guest memory that one descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// Its length; zero is allowed.
    pub length: u32,
}

/// A chain of descriptors, taken from a queue by [`Virtqueue::pop`](super::Virtqueue::pop).
///
/// The parts that the device may read come first, those that it may write follow (virtio 1.2, 2.7.4.2). Where the
/// driver cut either half into descriptors means nothing (2.7.4.1), so a device sees two streams of bytes. The
/// object is kept and filled again, so that taking a chain allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) segments: Vec<Segment>,
    pub(super) readable_segments: usize,
    pub(super) readable_length: u32,
    pub(super) writable_length: u32,
}

impl Chain {
    /// A chain with nothing in it, to be filled by [`Virtqueue::pop`](super::Virtqueue::pop).
    pub fn new() -> Self {
        Self::default()
    }

    /// The descriptor by which the driver knows the chain.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The number of bytes that the device may read.
    pub fn readable_length(&self) -> u32 {
        self.readable_length
    }

    /// The number of bytes that the device may write.
    pub fn writable_length(&self) -> u32 {
        self.writable_length
    }

    /// In how many segments the driver cut the two halves.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The pieces that the device may write, for a device to which their place means something.
    pub fn writable_segments(&self) -> &[Segment] {
        &self.segments[self.readable_segments..]
    }

    /// The half that the device may read.
    pub fn reader<'a>(&'a self, memory: &'a Regions) -> ChainReader<'a> {
        let segments = &self.segments[..self.readable_segments];
        ChainReader { memory, cursor: Cursor { segments, skipped: 0, left: self.readable_length } }
    }

    /// The half that the device may write.
    pub fn writer<'a>(&'a self, memory: &'a Regions) -> ChainWriter<'a> {
        let segments = &self.segments[self.readable_segments..];
        ChainWriter { memory, cursor: Cursor { segments, skipped: 0, left: self.writable_length } }
    }

    pub(super) fn clear(&mut self, head: u16) {
        self.head = head;
        self.segments.clear();
        self.readable_segments = 0;
        self.readable_length = 0;
        self.writable_length = 0;
    }
}

/// A place in a run of segments, and how much of them is left.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    segments: &'a [Segment],
    /// How much of the first segment is behind us.
    skipped: u32,
    left: u32,
}

impl<'a> Cursor<'a> {
    /// The pieces of the next `length` bytes, which must not be more than are left.
    fn pieces(self, length: u32) -> impl Iterator<Item = (GuestAddress, usize)> + 'a {
        let mut skipped = self.skipped;
        let mut wanted = length;
        self.segments.iter().map_while(move |segment| {
            if wanted == 0 {
                return None;
            }
            let start = std::mem::take(&mut skipped);
            let count = (segment.length - start).min(wanted);
            wanted -= count;
            Some((GuestAddress(segment.address.0 + u64::from(start)), count as usize))
        })
    }

    fn advance(&mut self, length: u32) {
        let mut to_skip = length;
        while let Some((segment, rest)) = self.segments.split_first() {
            let here = segment.length - self.skipped;
            if to_skip < here {
                self.skipped += to_skip;
                break;
            }
            to_skip -= here;
            self.segments = rest;
            self.skipped = 0;
        }
        self.left -= length;
    }

    fn slices(self, memory: &'a Regions, length: u32) -> impl Iterator<Item = VolatileSlice<'a>> + 'a {
        // A segment lies wholly within memory when its chain is taken. Should the regions have been replaced since,
        // what is gone is left out, and the receiver sees fewer bytes than it was promised.
        self.pieces(length)
            .flat_map(move |(address, count)| memory.get_slices(address, count))
            .filter_map(Result::ok)
    }

    fn check(&self, length: usize) -> Result<u32, QueueError> {
        let wanted = u32::try_from(length).unwrap_or(u32::MAX);
        ensure!(wanted <= self.left, ShortChainSnafu { wanted: length, left: self.left });
        Ok(wanted)
    }
}

/// The half of a chain that the device reads, from its beginning to its end.
#[derive(Clone, Copy)]
pub struct ChainReader<'a> {
    memory: &'a Regions,
    cursor: Cursor<'a>,
}

impl<'a> ChainReader<'a> {
    /// How many bytes are left.
    pub fn remaining(&self) -> u32 {
        self.cursor.left
    }

    /// Copies the next bytes out; an error if fewer are left.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<(), QueueError> {
        let length = self.cursor.check(bytes.len())?;
        let mut done = 0;
        for (address, count) in self.cursor.pieces(length) {
            self.memory.read_slice(&mut bytes[done..done + count], address).context(MemorySnafu)?;
            done += count;
        }
        self.cursor.advance(length);
        Ok(())
    }

    /// Copies the next bytes out as an object of the device's protocol.
    pub fn read_object<T: ByteValued + Default>(&mut self) -> Result<T, QueueError> {
        let mut object = T::default();
        self.read(object.as_mut_slice())?;
        Ok(object)
    }

    /// Splits off the next `length` bytes as a reader of their own.
    pub fn take(&mut self, length: u32) -> Result<Self, QueueError> {
        self.cursor.check(length as usize)?;
        let taken = Self { memory: self.memory, cursor: Cursor { left: length, ..self.cursor } };
        self.cursor.advance(length);
        Ok(taken)
    }

    /// All bytes that are left, as slices of guest memory.
    pub fn slices(&self) -> impl Iterator<Item = VolatileSlice<'a>> + 'a {
        self.cursor.slices(self.memory, self.cursor.left)
    }
}

/// The half of a chain that the device writes, from its beginning to its end. A copy writes from the same place on.
#[derive(Clone, Copy)]
pub struct ChainWriter<'a> {
    memory: &'a Regions,
    cursor: Cursor<'a>,
}

impl<'a> ChainWriter<'a> {
    /// How many bytes are left.
    pub fn remaining(&self) -> u32 {
        self.cursor.left
    }

    /// Copies bytes in; an error if there is less room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let length = self.cursor.check(bytes.len())?;
        let mut done = 0;
        for (address, count) in self.cursor.pieces(length) {
            self.memory.write_slice(&bytes[done..done + count], address).context(MemorySnafu)?;
            done += count;
        }
        self.cursor.advance(length);
        Ok(())
    }

    /// Copies an object of the device's protocol in.
    pub fn write_object<T: ByteValued>(&mut self, object: T) -> Result<(), QueueError> {
        self.write(object.as_slice())
    }

    /// Fills all that is left with zeroes.
    pub fn fill_with_zeroes(&mut self) -> Result<(), QueueError> {
        const ZEROES: [u8; 4096] = [0; 4096];
        while self.cursor.left > 0 {
            let count = ZEROES.len().min(self.cursor.left as usize);
            self.write(&ZEROES[..count])?;
        }
        Ok(())
    }

    /// Splits off the next `length` bytes as a writer of their own.
    pub fn take(&mut self, length: u32) -> Result<Self, QueueError> {
        self.cursor.check(length as usize)?;
        let taken = Self { memory: self.memory, cursor: Cursor { left: length, ..self.cursor } };
        self.cursor.advance(length);
        Ok(taken)
    }

    /// All bytes that are left, as slices of guest memory. Use [`ChainWriter::skip`] for what was written there.
    pub fn slices(&self) -> impl Iterator<Item = VolatileSlice<'a>> + 'a {
        self.cursor.slices(self.memory, self.cursor.left)
    }

    /// Goes past bytes that were written through [`ChainWriter::slices`].
    pub fn skip(&mut self, length: u32) -> Result<(), QueueError> {
        self.take(length).map(drop)
    }
}
