//! What lies below a format: a file, or what stands for one in tests.
//!
//! The seam is narrow so that a recorder or a fault can sit there: whatever reaches the disk goes through it.

mod file;

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};

pub use file::FileStorage;

/// Bytes that survive the process, and a power cut once they are synced.
///
/// What is written after the last [`Storage::sync`] may reach the disk in any order, torn at any sector, or not at
/// all; the formats are built on nothing more.
pub trait Storage: Send + Sync + Debug {
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills the buffers, in order, from `offset` on. What lies beyond the end reads as zeroes.
    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()>;

    /// The range is about to be read, and may be fetched from a slow disk from now on. A hint that never waits.
    fn will_read(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// From `offset` on, the first place that may hold anything but zeroes, or some place behind the end.
    fn data_from(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }

    /// Writes the buffers, in order, from `offset` on, and grows to hold them.
    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// The range reads as zeroes afterwards. With `unmap` its space is given back where that is possible, and the
    /// length may stay; without, the space is reserved and the length grows to hold the range.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;

    /// Nobody needs the range any more: its space is given back where that costs nothing. What it reads as
    /// afterwards is not known.
    fn give_back(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Cuts, or grows with zeroes.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Returns when everything that was written before the call survives a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Fills one buffer.
pub(crate) fn read_at(storage: &dyn Storage, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    storage.read(&mut [IoSliceMut::new(buffer)], offset)
}

/// Writes one buffer.
pub(crate) fn write_at(storage: &dyn Storage, buffer: &[u8], offset: u64) -> io::Result<()> {
    storage.write(&[IoSlice::new(buffer)], offset)
}
