//! Writing: in place where the cluster is ours alone, otherwise into a new cluster that is filled up from below.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::Ordering;

use vmm_sys::scattered::{length, window};

use super::Qcow2Image;
use super::entry::Mapping;
use super::in_flight::Ticket;
use super::metadata::Metadata;
use super::refcount::{AllocateError, Run};
use super::rooms::Room;
use crate::bytes::{all_zero, index};
use crate::locking::write;

/// What lies between two parts to read is read with them up to this length: less than what another call costs.
const READ_ALONG: u64 = 16 << 10;

/// What new clusters show before and behind the data that is written to them; `None` for zeroes.
type Sides<'r> = (Option<&'r [u8]>, Option<&'r [u8]>);

/// New clusters for guest clusters, with what they replace.
struct Allocation<'a> {
    guest: u64,
    run: Run,
    first: Mapping,
    last: Mapping,
    _ticket: Ticket<'a>,
}

impl Qcow2Image {
    /// Writes what lies within the disk.
    pub(super) fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let total = length(buffers);
        let mut done = 0;
        while done < total {
            let position = offset + done;
            let (mapping, covered, ticket) = self.find(position, total - done)?;
            done += match mapping {
                Mapping::Data { host, copied: true } => {
                    self.write_in_place(host, covered, buffers, done, position)?;
                    covered
                }
                _ => {
                    drop(ticket);
                    self.write_new(&window(buffers, done, total - done), position)?
                }
            };
        }
        Ok(())
    }

    fn write_in_place(
        &self,
        host: u64,
        covered: u64,
        buffers: &[IoSlice<'_>],
        done: u64,
        position: u64,
    ) -> io::Result<()> {
        let clusters = self.host_clusters(host, covered, position);
        self.check_unprotected(&clusters)?;
        let place = host + (position & (self.geometry.cluster_size() - 1));
        let written = if done == 0 && covered == length(buffers) {
            self.storage.write(buffers, place)
        } else {
            self.storage.write(&window(buffers, done, covered), place)
        };
        // Even a write that failed may have left something.
        self.unsynced.store(true, Ordering::Release);
        written
    }

    /// The clusters of the file that `covered` bytes at `position` of the disk, mapped to `host`, lie in.
    pub(super) fn host_clusters(&self, host: u64, covered: u64, position: u64) -> Range<u64> {
        let within = position & (self.geometry.cluster_size() - 1);
        self.geometry.cluster(host)..self.geometry.clusters(host + within + covered)
    }

    /// Refuses a mapping of guest data to where the tables are: only a corrupt image has one.
    pub(super) fn check_unprotected(&self, clusters: &Range<u64>) -> io::Result<()> {
        crate::locking::read(&self.metadata).check_unprotected(clusters)
    }

    /// Writes to guest clusters that are not ours to change: as far as one run of new clusters and one page of the
    /// L2 table go. Returns how much was written; nothing, if somebody else has made the cluster ours meanwhile.
    fn write_new(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
        let geometry = self.geometry;
        let first = geometry.cluster(offset);
        let end = geometry.page_end(first).min(geometry.clusters(offset + length(buffers)));
        self.relieve()?;
        let _claim = self.claims.claim(first..end);
        let Some(allocation) = self.with_space(|metadata| self.allocate_for(metadata, first, end))? else {
            return Ok(0);
        };
        let written = self.fill(&allocation, buffers, offset);
        self.unsynced.store(true, Ordering::Release);
        let run = allocation.run;
        let mut metadata = write(&self.metadata);
        let mut entered = 0;
        let result = written.and_then(|written| {
            for cluster in run.first..run.first + run.count {
                let entry = Mapping::entry_for_data(geometry.offset(cluster));
                metadata.set_entry(&*self.storage, first + entered, entry)?;
                entered += 1;
            }
            Ok(written)
        });
        metadata.unallocate(&*self.storage, run.first + entered..run.first + run.count);
        result
    }

    /// Does what allocates clusters, and makes the refcount table grow where that is needed.
    pub(super) fn with_space<T>(
        &self,
        mut allocate: impl FnMut(&mut Metadata) -> Result<T, AllocateError>,
    ) -> io::Result<T> {
        loop {
            // The lock is let go before the table grows.
            let allocated = allocate(&mut write(&self.metadata));
            match allocated {
                Ok(value) => return Ok(value),
                Err(AllocateError::Io(error)) => return Err(error),
                Err(AllocateError::TableFull) => self.grow_refcount_table()?,
            }
        }
    }

    fn allocate_for(
        &self,
        metadata: &mut Metadata,
        first: u64,
        end: u64,
    ) -> Result<Option<Allocation<'_>>, AllocateError> {
        let storage = &*self.storage;
        let is_ours = |mapping| matches!(mapping, Mapping::Data { copied: true, .. });
        let first_mapping = metadata.lookup_loading(storage, first, 1)?.0;
        if is_ours(first_mapping) {
            return Ok(None);
        }
        metadata.prepare_table(storage, first)?;
        let mut mappings = vec![first_mapping];
        for cluster in first + 1..end {
            let mapping = metadata.lookup_loading(storage, cluster, 1)?.0;
            if is_ours(mapping) {
                break;
            }
            mappings.push(mapping);
        }
        let run = metadata.allocate(storage, mappings.len() as u64)?;
        let last = mappings[index(run.count - 1)];
        let ticket = self.in_flight.enter(metadata.epoch);
        Ok(Some(Allocation { guest: first, run, first: first_mapping, last, _ticket: ticket }))
    }

    /// Writes the data and, around it, what the clusters showed before.
    fn fill(&self, allocation: &Allocation<'_>, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<u64> {
        let geometry = self.geometry;
        let run = allocation.run;
        let start = geometry.offset(allocation.guest);
        let end = geometry.offset(allocation.guest + run.count);
        let data = length(buffers).min(end - offset);
        let (before, after) = (offset - start, end - offset - data);
        let mut room = self.rooms.take();
        let (head, tail) = self.read_around(allocation, offset, data, &mut room)?;
        let host = geometry.offset(run.first);
        if !run.fresh {
            if head.is_none() && before > 0 {
                self.storage.write_zeroes(host, before, true)?;
            }
            if tail.is_none() && after > 0 {
                self.storage.write_zeroes(host + before + data, after, true)?;
            }
        }
        let mut all = Vec::with_capacity(buffers.len() + 2);
        all.extend(head.map(IoSlice::new));
        all.extend(window(buffers, 0, data));
        all.extend(tail.map(IoSlice::new));
        let place = if head.is_some() { host } else { host + before };
        self.storage.write(&all, place)?;
        Ok(data)
    }

    /// What the new clusters showed before and behind `data` bytes at `offset`; `None` for zeroes, and where there is
    /// nothing.
    fn read_around<'r>(
        &self,
        allocation: &Allocation<'_>,
        offset: u64,
        data: u64,
        room: &'r mut Room<'_>,
    ) -> io::Result<Sides<'r>> {
        let &Allocation { guest, run, first, last, .. } = allocation;
        let (start, end) = (self.geometry.offset(guest), self.geometry.offset(guest + run.count));
        let (before, after) = (index(offset - start), index(end - offset - data));
        if run.count == 1 && before > 0 && after > 0 && data <= READ_ALONG {
            let whole = room.bytes(index(end - start));
            let whole = self.read_old(first, start, whole)?;
            let sides = whole.map(|whole| (&whole[..before], &whole[whole.len() - after..]));
            return Ok((
                sides.map(|(head, _)| head).and_then(some_data),
                sides.map(|(_, tail)| tail).and_then(some_data),
            ));
        }
        let (head, tail) = room.bytes(before + after).split_at_mut(before);
        let head = self.read_old(first, start, head)?.and_then(some_data);
        let tail = self.read_old(last, offset + data, tail)?.and_then(some_data);
        Ok((head, tail))
    }

    /// Fills `room` with what a mapping shows at `offset` of the disk, unless that is nothing but zeroes.
    fn read_old<'r>(
        &self,
        mapping: Mapping,
        offset: u64,
        room: &'r mut [u8],
    ) -> io::Result<Option<&'r [u8]>> {
        if room.is_empty() || !self.shows_data(mapping, offset) {
            return Ok(None);
        }
        self.read_run(mapping, &mut [IoSliceMut::new(room)], offset)?;
        Ok(Some(room))
    }

    /// Commits when so much has changed that the caches are about to overflow.
    pub(super) fn relieve(&self) -> io::Result<()> {
        if crate::locking::read(&self.metadata).is_crowded() {
            self.flush_all()?;
        }
        Ok(())
    }
}

fn some_data(bytes: &[u8]) -> Option<&[u8]> {
    (!all_zero(bytes)).then_some(bytes)
}
