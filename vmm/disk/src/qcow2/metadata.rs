//! The tables of an open image: where each guest cluster is, and what has changed since the last commit.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::entry::{COPIED, Mapping, OFFSET_MASK, invalid};
use super::geometry::Geometry;
use super::in_flight::InFlight;
use super::pages::{Extent, PageCache};
use super::refcount::{AllocateError, Refcounts};
use super::table::{Table, number};
use crate::bytes::index;
use crate::storage::{Storage, read_at, write_at};

/// Commit early when so many runs of clusters wait to be freed.
const MANY_FREED: usize = 1 << 16;

/// What a look into the tables in memory gave.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// A mapping, and how many guest clusters it goes on for.
    Found(Mapping, u64),
    /// The page has to be read first.
    Missing,
}

/// Clusters whose last reference is gone from the disk, while requests that began earlier may still use them.
#[derive(Debug)]
struct Retired {
    epoch: u64,
    clusters: Range<u64>,
}

/// What a commit writes, copied at one instant.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) refcount_pages: Vec<Extent>,
    pub(crate) refcount_table: Vec<Extent>,
    pub(crate) l2_pages: Vec<Extent>,
    pub(crate) l1_table: Vec<Extent>,
    /// Clusters that lose a reference by what is written here.
    pub(crate) freed: Vec<Range<u64>>,
    /// Something else was written that the references need.
    pub(crate) initialised: bool,
}

/// The tables of an open image.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) geometry: Geometry,
    pub(crate) version: u32,
    pub(crate) l1: Table,
    pub(crate) l2: PageCache,
    /// Empty where the image is read-only.
    pub(crate) refcounts: Refcounts,
    /// Counts the moments at which retired clusters may have lost their last user.
    pub(crate) epoch: u64,
    /// References that are gone from memory, but not yet from the disk.
    freed: Vec<Range<u64>>,
    retired: VecDeque<Retired>,
    initialised: bool,
}

impl Metadata {
    /// The tables as they were read.
    pub(crate) fn new(version: u32, l1: Table, l2: PageCache, refcounts: Refcounts) -> Self {
        Self {
            geometry: refcounts.geometry,
            version,
            l1,
            l2,
            refcounts,
            epoch: 0,
            freed: Vec::new(),
            retired: VecDeque::new(),
            initialised: false,
        }
    }

    /// Where the `limit` guest clusters from `guest` on are, as far as they lie together.
    pub(crate) fn lookup(&self, guest: u64, limit: u64) -> io::Result<Lookup> {
        let Some((table, _)) = self.table_of(guest)? else {
            return Ok(Lookup::Found(Mapping::Unallocated, self.rest_of_table(guest, limit)));
        };
        let (page, within) = self.geometry.l2_position(guest);
        match self.l2.get(table + page) {
            None => Ok(Lookup::Missing),
            Some(bytes) => {
                let (mapping, count) = self.run(bytes, within, limit)?;
                Ok(Lookup::Found(mapping, count))
            }
        }
    }

    /// The same, reading the page if need be.
    pub(crate) fn lookup_loading(
        &mut self,
        storage: &dyn Storage,
        guest: u64,
        limit: u64,
    ) -> io::Result<(Mapping, u64)> {
        let Some((table, _)) = self.table_of(guest)? else {
            return Ok((Mapping::Unallocated, self.rest_of_table(guest, limit)));
        };
        let (page, within) = self.geometry.l2_position(guest);
        self.l2.load(storage, table + page)?;
        match self.lookup(guest, limit)? {
            Lookup::Found(mapping, count) => Ok((mapping, count)),
            Lookup::Missing => Err(io::Error::other(format!("the L2 page of entry {within} got lost"))),
        }
    }

    /// Whether a guest cluster has an L2 table at all.
    pub(crate) fn has_table(&self, guest: u64) -> io::Result<bool> {
        Ok(self.table_of(guest)?.is_some())
    }

    /// Sees to it that a guest cluster has an L2 table that may be changed.
    pub(crate) fn prepare_table(&mut self, storage: &dyn Storage, guest: u64) -> Result<(), AllocateError> {
        let old = self.table_of(guest)?;
        if let Some((table, _)) = old {
            let cluster = self.geometry.cluster(table);
            self.check_unprotected(&(cluster..cluster + 1))?;
        }
        if let Some((_, true)) = old {
            return Ok(());
        }
        let cluster = self.allocate(storage, 1)?.first;
        let new = self.geometry.offset(cluster);
        if let Err(error) = self.fill_table(storage, old.map(|(table, _)| table), new) {
            self.unallocate(storage, cluster..cluster + 1);
            return Err(error.into());
        }
        self.initialised = true;
        self.l2.forget(new, new + self.geometry.cluster_size());
        self.l1.set(self.geometry.l1_index(guest), new | COPIED);
        if let Some((table, _)) = old {
            let shared = self.geometry.cluster(table);
            self.free(shared..shared + 1);
        }
        Ok(())
    }

    /// Changes the L2 entry of a guest cluster whose table is prepared. What it referred to is freed.
    pub(crate) fn set_entry(&mut self, storage: &dyn Storage, guest: u64, entry: u64) -> io::Result<()> {
        let (old, _) = self.lookup_loading(storage, guest, 1)?;
        let freed = old.host_clusters(self.geometry).map(|(first, count)| first..first + count);
        if let Some(clusters) = &freed {
            self.check_unprotected(clusters)?;
        }
        let Some((table, true)) = self.table_of(guest)? else {
            return Err(io::Error::other("the L2 table was not prepared"));
        };
        let (page, within) = self.geometry.l2_position(guest);
        self.l2.change(storage, table + page, within, &entry.to_be_bytes())?;
        if let Some(clusters) = freed {
            self.free(clusters);
        }
        Ok(())
    }

    /// Takes up to `wanted` free clusters that lie together.
    pub(crate) fn allocate(
        &mut self,
        storage: &dyn Storage,
        wanted: u64,
    ) -> Result<super::refcount::Run, AllocateError> {
        let protected = self.protected();
        self.refcounts.allocate(storage, wanted, &protected)
    }

    /// Gives back clusters that were allocated and never referred to.
    pub(crate) fn unallocate(&mut self, storage: &dyn Storage, clusters: Range<u64>) {
        for cluster in clusters {
            if let Err(error) = self.refcounts.release(storage, cluster) {
                tracing::debug!(%error, cluster, "a cluster is leaked");
            }
        }
    }

    /// The clusters of the header, the L1 table and the refcount table: nothing else may ever be written there.
    pub(crate) fn protected(&self) -> [Range<u64>; 3] {
        let clusters = |table: &Table| {
            let first = self.geometry.cluster(table.offset());
            first..first + self.geometry.clusters(table.len() * 8)
        };
        [0..1, clusters(&self.l1), clusters(&self.refcounts.table)]
    }

    /// Refuses what is mapped to where the tables are, to be written or to be freed: only a corrupt image has it.
    pub(crate) fn check_unprotected(&self, clusters: &Range<u64>) -> io::Result<()> {
        let overlaps = |range: &Range<u64>| range.start < clusters.end && clusters.start < range.end;
        if self.protected().iter().any(overlaps) {
            return Err(invalid("something is mapped to where the tables are"));
        }
        Ok(())
    }

    /// Whether so much has changed that a commit should come before more does.
    pub(crate) fn is_crowded(&self) -> bool {
        self.l2.is_crowded() || self.refcounts.pages.is_crowded() || self.freed.len() > MANY_FREED
    }

    /// Copies what has changed, to be written now. [`Metadata::settle`] must follow.
    pub(crate) fn take_snapshot(&mut self) -> Snapshot {
        Snapshot {
            initialised: std::mem::take(&mut self.initialised) | self.refcounts.pages.take_written_back(),
            refcount_pages: self.refcounts.pages.take_dirty(),
            refcount_table: self.refcounts.table.take_dirty(),
            l2_pages: self.l2.take_dirty(),
            l1_table: self.l1.take_dirty(),
            freed: std::mem::take(&mut self.freed),
        }
    }

    /// Says whether a snapshot became durable. If so, what it freed retires; if not, all of it has changed still.
    pub(crate) fn settle(&mut self, snapshot: Snapshot, durable: bool) {
        self.refcounts.pages.settle(durable);
        self.refcounts.table.settle(durable);
        self.l2.settle(durable);
        self.l1.settle(durable);
        if durable {
            let epoch = self.epoch;
            self.retired.extend(snapshot.freed.into_iter().map(|clusters| Retired { epoch, clusters }));
        } else {
            self.freed.extend(snapshot.freed);
            self.initialised |= snapshot.initialised;
        }
    }

    /// Takes the retired clusters that no request can use any more.
    pub(crate) fn take_unused(&mut self, in_flight: &InFlight) -> Vec<Range<u64>> {
        for _ in 0..2 {
            // The requests of the epoch before this one have ended: a new epoch may begin in their place.
            if !self.retired.is_empty() && in_flight.is_idle(self.epoch + 1) {
                self.epoch += 1;
            }
        }
        let mut unused = Vec::new();
        while self.retired.front().is_some_and(|retired| retired.epoch + 2 <= self.epoch) {
            unused.extend(self.retired.pop_front().map(|retired| retired.clusters));
        }
        unused
    }

    /// The end of the file, rounded up to a cluster.
    fn file_end(&self) -> u64 {
        self.geometry.offset(self.refcounts.used_end())
    }

    /// The L2 table of a guest cluster, and whether it may be changed.
    fn table_of(&self, guest: u64) -> io::Result<Option<(u64, bool)>> {
        let entry = self.l1.get(self.geometry.l1_index(guest));
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if !self.geometry.is_aligned(offset) || offset >= self.file_end() {
            return Err(invalid("an L1 entry does not point to a cluster of the file"));
        }
        Ok(Some((offset, entry & COPIED != 0)))
    }

    fn rest_of_table(&self, guest: u64, limit: u64) -> u64 {
        limit.min(self.geometry.table_end(guest) - guest)
    }

    /// The mapping of the entry at `within`, and how many entries of the page continue it.
    fn run(&self, page: &[u8], within: usize, limit: u64) -> io::Result<(Mapping, u64)> {
        let decode = |bytes| Mapping::decode(number(bytes), self.geometry, self.version, self.file_end());
        let mut entries = page[within..].chunks_exact(8).take(index(limit));
        let first = entries.next().map_or(Ok(Mapping::Unallocated), decode)?;
        let mut count = 1;
        for entry in entries {
            // An entry that cannot be right ends the run; whoever needs it gets the error.
            if !decode(entry).is_ok_and(|next| first.continues(next, count, self.geometry)) {
                break;
            }
            count += 1;
        }
        Ok((first, count))
    }

    fn fill_table(&self, storage: &dyn Storage, old: Option<u64>, new: u64) -> io::Result<()> {
        match old {
            None => storage.write_zeroes(new, self.geometry.cluster_size(), false),
            Some(old) => {
                let mut bytes = vec![0; index(self.geometry.cluster_size())];
                read_at(storage, &mut bytes, old)?;
                write_at(storage, &bytes, new)
            }
        }
    }

    fn free(&mut self, clusters: Range<u64>) {
        match self.freed.last_mut() {
            Some(last) if last.end == clusters.start => last.end = clusters.end,
            _ => self.freed.push(clusters),
        }
    }
}
