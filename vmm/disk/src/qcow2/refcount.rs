//! How often each cluster of the file is referred to, and with it the free clusters.
//!
//! A count in memory is never below what any state of the disk can need: it rises before a reference is made, and
//! falls only after the reference's removal is durable. So counts may be written at any time; what has to wait is
//! the reference (see `commit`).

use std::io;
use std::ops::Range;

use super::entry::invalid;
use super::geometry::Geometry;
use super::pages::PageCache;
use super::table::{Table, number};
use crate::storage::Storage;

/// Offsets in the refcount table.
const BLOCK_MASK: u64 = !511;
/// No file is longer: offsets in entries have 56 bits.
const MAX_FILE: u64 = 1 << 56;
/// How many counts one allocation looks at before it goes to the end of the file instead: images may lie.
const SCAN_LIMIT: u64 = 1 << 22;

/// Clusters that lie together in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Nothing was ever written there, so it reads as zeroes.
    pub(crate) fresh: bool,
}

/// Why no cluster was allocated.
#[derive(Debug)]
pub(crate) enum AllocateError {
    /// Reading or writing failed, or the image is corrupt, or as large as it can be.
    Io(io::Error),
    /// The refcount table must grow first.
    TableFull,
}

impl From<io::Error> for AllocateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The refcounts of an image that is open for writing.
#[derive(Debug)]
pub(crate) struct Refcounts {
    pub(super) geometry: Geometry,
    pub(super) table: Table,
    pub(super) pages: PageCache,
    /// No cluster below is free.
    next_free: u64,
    /// No cluster from here on was ever used.
    used_end: u64,
}

impl Refcounts {
    /// The refcounts whose table is given, in a file of `file_clusters` clusters.
    pub(crate) fn new(geometry: Geometry, table: Table, page_limit: usize, file_clusters: u64) -> Self {
        Self {
            geometry,
            table,
            pages: PageCache::new(geometry.page_size(), page_limit, true),
            next_free: 0,
            used_end: file_clusters,
        }
    }

    /// The first cluster that was never used.
    pub(crate) fn used_end(&self) -> u64 {
        self.used_end
    }

    /// Notes that the clusters before `end` are in use, or were.
    pub(super) fn use_until(&mut self, end: u64) {
        self.used_end = self.used_end.max(end);
    }

    /// How often a cluster is referred to.
    pub(crate) fn get(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<u64> {
        let Some(block) = self.block(cluster)? else { return Ok(0) };
        let (page, within, bit) = self.position(cluster);
        let bytes = self.pages.load(storage, block + page)?;
        let order = self.geometry.refcount_order;
        Ok(if order < 3 {
            u64::from(bytes[within] >> bit) & self.largest()
        } else {
            number(&bytes[within..within + (1 << (order - 3))])
        })
    }

    /// Sets the count of a cluster whose refcount block exists.
    pub(crate) fn set(&mut self, storage: &dyn Storage, cluster: u64, count: u64) -> io::Result<()> {
        let block = self.block(cluster)?.ok_or_else(|| invalid("a refcount block is missing"))?;
        if count > self.largest() {
            return Err(invalid("a cluster has more references than can be counted"));
        }
        let (page, within, bit) = self.position(cluster);
        let order = self.geometry.refcount_order;
        if order < 3 {
            let old = self.pages.load(storage, block + page)?[within];
            let mask = self.largest() << bit;
            let new = (u64::from(old) & !mask) | count << bit;
            self.pages.change(storage, block + page, within, &new.to_be_bytes()[7..])
        } else {
            let width = 1 << (order - 3);
            self.pages.change(storage, block + page, within, &count.to_be_bytes()[8 - width..])
        }
    }

    /// Whether the table must grow before another cluster is free.
    pub(super) fn is_full(&self) -> bool {
        self.next_free >> self.geometry.block_bits() >= self.table.len()
    }

    /// Takes up to `wanted` free clusters that lie together. `protected` never belong to them, whatever their
    /// counts say: the header and the tables that are kept in memory.
    pub(crate) fn allocate(
        &mut self,
        storage: &dyn Storage,
        wanted: u64,
        protected: &[Range<u64>],
    ) -> Result<Run, AllocateError> {
        let first = self.find_free(storage, protected)?;
        let mut end = first + 1;
        let region_end = ((first >> self.geometry.block_bits()) + 1) << self.geometry.block_bits();
        while end < (first + wanted).min(region_end) && self.is_free(storage, end, protected)? {
            end += 1;
        }
        for cluster in first..end {
            if let Err(error) = self.set(storage, cluster, 1) {
                for undone in first..cluster {
                    // The page is in memory: it was changed a moment ago. At worst the cluster is leaked.
                    let _ = self.set(storage, undone, 0);
                }
                return Err(error.into());
            }
        }
        let fresh = first >= self.used_end;
        self.use_until(end);
        self.next_free = end;
        Ok(Run { first, count: end - first, fresh })
    }

    /// Takes one reference away. Returns how many are left.
    pub(crate) fn release(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<u64> {
        let Some(left) = self.get(storage, cluster)?.checked_sub(1) else {
            return Err(invalid("a cluster in use is counted as free"));
        };
        self.set(storage, cluster, left)?;
        if left == 0 {
            self.next_free = self.next_free.min(cluster);
        }
        Ok(left)
    }

    /// The largest count.
    fn largest(&self) -> u64 {
        u64::MAX >> (64 - (1 << self.geometry.refcount_order))
    }

    /// Where the block that counts a cluster lies.
    fn block(&self, cluster: u64) -> io::Result<Option<u64>> {
        let offset = self.table.get(cluster >> self.geometry.block_bits()) & BLOCK_MASK;
        if offset >= self.geometry.offset(self.used_end) || !self.geometry.is_aligned(offset) {
            return Err(invalid("a refcount block is not a cluster of the file"));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// Where a count lies in its block: the page's offset, the byte in the page, the bit in the byte.
    fn position(&self, cluster: u64) -> (u64, usize, u32) {
        let position = (cluster & ((1 << self.geometry.block_bits()) - 1)) << self.geometry.refcount_order;
        let (page, within) = self.geometry.split(position >> 3);
        (page, within, u32::from(position.to_le_bytes()[0] & 7))
    }

    fn is_free(&mut self, storage: &dyn Storage, cluster: u64, protected: &[Range<u64>]) -> io::Result<bool> {
        Ok(!covers(protected, cluster) && self.get(storage, cluster)? == 0)
    }

    fn find_free(&mut self, storage: &dyn Storage, protected: &[Range<u64>]) -> Result<u64, AllocateError> {
        let mut cluster = self.next_free;
        let mut examined = 0;
        while self.geometry.offset(cluster + 1) < MAX_FILE {
            let region = cluster >> self.geometry.block_bits();
            if region >= self.table.len() {
                self.next_free = cluster;
                return Err(AllocateError::TableFull);
            }
            if self.table.get(region) & BLOCK_MASK == 0 {
                self.create_block(storage, region, protected)?;
            }
            if self.is_free(storage, cluster, protected)? {
                return Ok(cluster);
            }
            cluster += 1;
            examined += 1;
            if examined == SCAN_LIMIT {
                cluster = cluster.max(self.used_end);
            } else if examined > 2 * SCAN_LIMIT {
                break;
            }
        }
        Err(io::Error::new(io::ErrorKind::StorageFull, "the qcow2 image cannot grow any further").into())
    }

    /// Makes the block of a region that has none, in the region itself: it counts itself, so that no other block
    /// has to be durable before it.
    fn create_block(
        &mut self,
        storage: &dyn Storage,
        region: u64,
        protected: &[Range<u64>],
    ) -> io::Result<()> {
        let bits = self.geometry.block_bits();
        let cluster = (region << bits..(region + 1) << bits)
            .find(|&cluster| !covers(protected, cluster))
            .ok_or_else(|| invalid("the tables leave no room for a refcount block"))?;
        let offset = self.geometry.offset(cluster);
        storage.write_zeroes(offset, self.geometry.cluster_size(), false)?;
        self.pages.forget(offset, offset + self.geometry.cluster_size());
        self.use_until(cluster + 1);
        self.table.set(region, offset);
        self.set(storage, cluster, 1).inspect_err(|_| self.table.set(region, 0))
    }
}

/// Whether a cluster lies in one of the ranges.
fn covers(ranges: &[Range<u64>], cluster: u64) -> bool {
    ranges.iter().any(|range| range.contains(&cluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStorage;
    use std::slice;

    /// Clusters that are never handed out.
    const TABLES: Range<u64> = 0..2;

    fn refcounts(refcount_order: u32, table_entries: usize) -> Refcounts {
        let geometry = Geometry { cluster_bits: 9, refcount_order };
        Refcounts::new(geometry, Table::new(512, vec![0; table_entries]), 64, 2)
    }

    #[test]
    fn every_width_counts_to_its_largest() {
        for order in 0..=6 {
            let storage = MemoryStorage::default();
            let mut refcounts = refcounts(order, 8);
            refcounts.allocate(&storage, 1, slice::from_ref(&TABLES)).unwrap();
            for cluster in 10..30 {
                let count = refcounts.largest() - u64::from(cluster % 2 == 0);
                refcounts.set(&storage, cluster, count).unwrap();
            }
            for cluster in 10..30 {
                let count = refcounts.largest() - u64::from(cluster % 2 == 0);
                assert_eq!(refcounts.get(&storage, cluster).unwrap(), count, "order {order}");
            }
            if let Some(more) = refcounts.largest().checked_add(1) {
                assert!(refcounts.set(&storage, 10, more).is_err());
            }
        }
    }

    #[test]
    fn a_block_counts_itself_and_stays_off_what_is_protected() {
        let storage = MemoryStorage::default();
        let mut refcounts = refcounts(4, 8);
        let run = refcounts.allocate(&storage, 1000, &[0..2, 5..6]).unwrap();
        assert_eq!(refcounts.table.get(0), 2 * 512);
        assert_eq!(run, Run { first: 3, count: 2, fresh: true });
        let run = refcounts.allocate(&storage, 1000, &[0..2, 5..6]).unwrap();
        assert_eq!(run, Run { first: 6, count: 250, fresh: true }, "a run ends with its block");
    }

    #[test]
    fn a_released_cluster_is_taken_again_and_is_not_fresh() {
        let storage = MemoryStorage::default();
        let mut refcounts = refcounts(4, 8);
        let run = refcounts.allocate(&storage, 4, slice::from_ref(&TABLES)).unwrap();
        assert_eq!(refcounts.release(&storage, run.first + 1).unwrap(), 0);
        assert!(refcounts.release(&storage, run.first + 1).is_err(), "it was free");
        let again = refcounts.allocate(&storage, 4, slice::from_ref(&TABLES)).unwrap();
        assert_eq!(again, Run { first: run.first + 1, count: 1, fresh: false });
    }

    #[test]
    fn a_full_table_is_told() {
        let storage = MemoryStorage::default();
        let mut refcounts = refcounts(6, 1);
        let mut taken = 0;
        let error = loop {
            match refcounts.allocate(&storage, 10, slice::from_ref(&TABLES)) {
                Ok(run) => taken += run.count,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AllocateError::TableFull));
        assert_eq!(taken, 61, "64 clusters are counted: two are protected, one is the block itself");
    }
}
