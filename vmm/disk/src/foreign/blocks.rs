//! A disk whose format keeps it in blocks of one size, each of which is somewhere in the file or not there at all.

use std::io::{self, IoSliceMut};
use std::sync::Arc;

use vmm_sys::scattered::{length_mut, scatter, window_mut, zero};

use crate::Storage;
use crate::bytes::index;
use crate::image::{DiskImage, check_bounds, only_read};

/// So many blocks that are not there are passed over at once: see [`DiskImage::data_from`].
const MOST_LOOKUPS: u64 = 1 << 20;

/// Where a block is.
pub(super) enum Place {
    /// Nowhere: it reads as zeroes.
    Nowhere,
    /// In the file, as it is.
    At(u64),
    /// It had to be decompressed.
    Bytes(Arc<[u8]>),
}

/// The part of a format that finds blocks.
pub(super) trait BlockMap: Send + Sync {
    /// Where a block is.
    fn find(&self, storage: &dyn Storage, block: u64) -> io::Result<Place>;

    /// Whether a block is somewhere, told without reading it.
    fn is_there(&self, storage: &dyn Storage, block: u64) -> io::Result<bool>;
}

/// A disk in blocks, to be read.
pub(super) struct BlockDisk<M> {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) map: M,
    pub(super) block_size: u64,
    pub(super) size: u64,
}

impl<M: BlockMap> DiskImage for BlockDisk<M> {
    only_read!();

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let total = length_mut(buffers);
        check_bounds(offset, total, self.size)?;
        let mut done = 0;
        while done < total {
            let at = offset + done;
            let within = at % self.block_size;
            let count = (self.block_size - within).min(total - done);
            let mut part = window_mut(buffers, done, count);
            match self.map.find(&*self.storage, at / self.block_size)? {
                Place::Nowhere => zero(&mut part),
                Place::At(place) => self.storage.read(&mut part, place + within)?,
                Place::Bytes(bytes) => scatter(&bytes[index(within)..], &mut part),
            }
            done += count;
        }
        Ok(())
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        let first = offset / self.block_size;
        for block in first..first.saturating_add(MOST_LOOKUPS) {
            let at = block * self.block_size;
            if at >= self.size {
                return Ok(self.size);
            }
            if self.map.is_there(&*self.storage, block)? {
                return Ok(at.max(offset));
            }
        }
        Ok(((first + MOST_LOOKUPS) * self.block_size).min(self.size))
    }
}
