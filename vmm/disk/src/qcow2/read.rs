//! Reading.

use std::io::{self, IoSliceMut};

use vmm_sys::scattered::{length_mut, scatter, window_mut, zero};

use super::Qcow2Image;
use super::entry::Mapping;
use super::in_flight::Ticket;
use super::metadata::Lookup;
use crate::bytes::index;
use crate::locking::{read, write};

/// So many pieces without data are passed over at once: tables that say little about much would hold us up.
const MOST_LOOKUPS: usize = 1 << 16;

impl Qcow2Image {
    /// Reads what lies within the disk.
    pub(super) fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let total = length_mut(buffers);
        let mut done = 0;
        while done < total {
            let position = offset + done;
            let (mapping, length, _ticket) = self.find(position, total - done)?;
            if length == total {
                return self.read_run(mapping, buffers, position);
            }
            self.read_run(mapping, &mut window_mut(buffers, done, length), position)?;
            done += length;
        }
        Ok(())
    }

    /// The first place from `offset` on that may hold anything but zeroes.
    pub(super) fn find_data(&self, offset: u64) -> io::Result<u64> {
        let mut at = offset;
        for _ in 0..MOST_LOOKUPS {
            if at >= self.size {
                return Ok(self.size);
            }
            let (mapping, length, _ticket) = self.find(at, self.size - at)?;
            let shown = match (mapping, &self.backing) {
                (Mapping::Data { .. } | Mapping::Compressed(_), _) => return Ok(at),
                (Mapping::Unallocated, Some(backing)) if self.is_backed(at) => backing.data_from(at)?,
                _ => u64::MAX,
            };
            if shown < (at + length).min(self.backed_size()) {
                return Ok(shown);
            }
            at += length;
        }
        Ok(at.min(self.size))
    }

    /// The mapping of the byte at `offset`, and how many of the `length` bytes from there on it covers. While the
    /// ticket lives, what the mapping points to stays what it is.
    pub(super) fn find(&self, offset: u64, length: u64) -> io::Result<(Mapping, u64, Ticket<'_>)> {
        if let Some(found) = self.find_in_memory(offset, length)? {
            return Ok(found);
        }
        let (first, limit) = self.clusters_of(offset, length);
        let mut metadata = write(&self.metadata);
        let (mapping, count) = metadata.lookup_loading(&*self.storage, first, limit)?;
        Ok((mapping, self.covered(offset, length, count), self.in_flight.enter(metadata.epoch)))
    }

    /// The same, unless the table has to be read for that.
    pub(super) fn find_in_memory(
        &self,
        offset: u64,
        length: u64,
    ) -> io::Result<Option<(Mapping, u64, Ticket<'_>)>> {
        let (first, limit) = self.clusters_of(offset, length);
        let metadata = read(&self.metadata);
        Ok(match metadata.lookup(first, limit)? {
            Lookup::Found(mapping, count) => {
                Some((mapping, self.covered(offset, length, count), self.in_flight.enter(metadata.epoch)))
            }
            Lookup::Missing => None,
        })
    }

    /// The first guest cluster of a range, and how many there are.
    fn clusters_of(&self, offset: u64, length: u64) -> (u64, u64) {
        let first = self.geometry.cluster(offset);
        (first, self.geometry.cluster(offset + length - 1) - first + 1)
    }

    /// How many bytes of a range its first `count` clusters hold.
    fn covered(&self, offset: u64, length: u64, count: u64) -> u64 {
        length.min(self.geometry.offset(self.geometry.cluster(offset) + count) - offset)
    }

    /// Whether a mapping may show anything but zeroes at `offset` of the disk.
    pub(super) fn shows_data(&self, mapping: Mapping, offset: u64) -> bool {
        match mapping {
            Mapping::Zero { .. } => false,
            Mapping::Unallocated => self.is_backed(offset),
            Mapping::Data { .. } | Mapping::Compressed(_) => true,
        }
    }

    /// Reads a range of the disk that has one mapping.
    pub(super) fn read_run(
        &self,
        mapping: Mapping,
        buffers: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> io::Result<()> {
        let within = offset & (self.geometry.cluster_size() - 1);
        match mapping {
            Mapping::Data { host, .. } => self.storage.read(buffers, host + within),
            Mapping::Unallocated => self.read_backing(buffers, offset),
            Mapping::Zero { .. } => {
                zero(buffers);
                Ok(())
            }
            Mapping::Compressed(compressed) => {
                let cluster = self.compressed.read(&*self.storage, compressed)?;
                scatter(&cluster[index(within)..], buffers);
                Ok(())
            }
        }
    }

    /// Reads from the layer below, which may be shorter.
    fn read_backing(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let total = length_mut(buffers);
        let Some(backing) = self.backing.as_ref().filter(|_| self.is_backed(offset)) else {
            zero(buffers);
            return Ok(());
        };
        let there = total.min(self.backed_size() - offset);
        if there == total {
            return backing.read(buffers, offset);
        }
        backing.read(&mut window_mut(buffers, 0, there), offset)?;
        zero(&mut window_mut(buffers, there, total - there));
        Ok(())
    }
}
