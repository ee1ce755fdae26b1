//! Reading.

use std::io::{self, IoSliceMut};

use vmm_sys::scattered::{length_mut, scatter, window_mut, zero};

use super::Qcow2Image;
use super::entry::Mapping;
use super::in_flight::Ticket;
use super::metadata::Lookup;
use crate::bytes::{all_zero, index};
use crate::locking::{read, write};

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

    /// The mapping of the byte at `offset`, and how many of the `length` bytes from there on it covers. While the
    /// ticket lives, what the mapping points to stays what it is.
    pub(super) fn find(&self, offset: u64, length: u64) -> io::Result<(Mapping, u64, Ticket<'_>)> {
        let geometry = self.geometry;
        let first = geometry.cluster(offset);
        let limit = geometry.cluster(offset + length - 1) - first + 1;
        let covered = |count| length.min(geometry.offset(first + count) - offset);
        {
            let metadata = read(&self.metadata);
            if let Lookup::Found(mapping, count) = metadata.lookup(first, limit)? {
                return Ok((mapping, covered(count), self.in_flight.enter(metadata.epoch)));
            }
        }
        let mut metadata = write(&self.metadata);
        let (mapping, count) = metadata.lookup_loading(&*self.storage, first, limit)?;
        Ok((mapping, covered(count), self.in_flight.enter(metadata.epoch)))
    }

    /// What a mapping shows at `offset` of the disk, or `None` for zeroes.
    pub(super) fn read_old(&self, mapping: Mapping, offset: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        if length == 0 || matches!(mapping, Mapping::Zero { .. }) {
            return Ok(None);
        }
        if mapping == Mapping::Unallocated && !self.is_backed(offset) {
            return Ok(None);
        }
        let mut bytes = vec![0; index(length)];
        self.read_run(mapping, &mut [IoSliceMut::new(&mut bytes)], offset)?;
        Ok((!all_zero(&bytes)).then_some(bytes))
    }

    /// Reads a range of the disk that has one mapping.
    fn read_run(&self, mapping: Mapping, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
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
