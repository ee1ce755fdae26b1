//! A longer refcount table, for a file that outgrew it. Rare: with clusters of 64 KiB one cluster of table counts
//! 16 TiB.

use std::io;
use std::sync::atomic::Ordering;

use super::Qcow2Image;
use super::header::{MAX_REFCOUNT_TABLE_BYTES, REFCOUNT_TABLE_AT};
use super::pages::write_extents;
use super::refcount::Refcounts;
use super::table::Table;
use crate::locking::{lock, write};
use crate::storage::{Storage, write_at};

impl Qcow2Image {
    /// Moves the refcount table to where it has room. Everything else waits.
    pub(super) fn grow_refcount_table(&self) -> io::Result<()> {
        // A commit under way could write older refcounts over those that are written here.
        let _no_commit = lock(&self.committed);
        self.check_sound()?;
        let storage = &*self.storage;
        let mut metadata = write(&self.metadata);
        if !metadata.refcounts.is_full() {
            return Ok(());
        }
        let old = metadata.refcounts.begin_growth(storage)?;
        let refcounts = &mut metadata.refcounts;
        let first = self.geometry.cluster(old.offset());
        let clusters = first..first + self.geometry.clusters(old.len() * 8);

        let ready = refcounts.write_all(storage).and_then(|()| self.sync()).and_then(|()| {
            write_at(storage, &refcounts.table.bytes(), refcounts.table.offset())?;
            self.sync()
        });
        if let Err(error) = ready {
            refcounts.abandon_growth(old);
            return Err(error);
        }
        // Nothing pointed to the new table until here. The pointer lies in one sector, so it is the old or the new.
        let mut pointer = refcounts.table.offset().to_be_bytes().to_vec();
        let table_clusters = self.geometry.clusters(refcounts.table.len() * 8);
        pointer.extend(u32::try_from(table_clusters).unwrap_or(u32::MAX).to_be_bytes());
        write_at(storage, &pointer, REFCOUNT_TABLE_AT)
            .and_then(|()| self.sync())
            .inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        metadata.unallocate(storage, clusters);
        Ok(())
    }
}

impl Refcounts {
    /// Puts a longer table, and the refcount blocks that count it, past everything that was ever used; in memory
    /// only, the file just gets room for them. Returns the old table.
    fn begin_growth(&mut self, storage: &dyn Storage) -> io::Result<Table> {
        let geometry = self.geometry;
        let per_cluster = 1 << geometry.table_bits();
        let region = self.table.len().max(self.used_end().div_ceil(1 << geometry.block_bits()));
        let mut entries = (self.table.len() * 2).max(region + 1).next_multiple_of(per_cluster);
        let (blocks, table_clusters) = loop {
            let table_clusters = entries / per_cluster;
            // The smallest number of blocks that counts the table and itself.
            let blocks = table_clusters.div_ceil((1 << geometry.block_bits()) - 1);
            if region + blocks <= entries {
                break (blocks, table_clusters);
            }
            entries = (region + blocks).next_multiple_of(per_cluster);
        };
        if entries * 8 > MAX_REFCOUNT_TABLE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the qcow2 image cannot grow any further",
            ));
        }
        let base = region << geometry.block_bits();
        let end = base + blocks + table_clusters;
        storage.write_zeroes(geometry.offset(base), geometry.offset(end - base), false)?;
        self.pages.forget(geometry.offset(base), geometry.offset(end));
        self.use_until(end);
        let grown = self.table.grown(geometry.offset(base + blocks), entries);
        let old = std::mem::replace(&mut self.table, grown);
        for block in 0..blocks {
            self.table.set(region + block, geometry.offset(base + block));
        }
        for cluster in base..end {
            if let Err(error) = self.set(storage, cluster, 1) {
                self.abandon_growth(old);
                return Err(error);
            }
        }
        Ok(old)
    }

    /// Takes the old table back. What was prepared lies unused in the file.
    fn abandon_growth(&mut self, old: Table) {
        let new = std::mem::replace(&mut self.table, old);
        for region in self.table.len()..new.len() {
            let block = new.get(region);
            if block != 0 {
                self.pages.forget(block, block + self.geometry.cluster_size());
            }
        }
    }

    /// Writes everything that has changed in the blocks.
    fn write_all(&mut self, storage: &dyn Storage) -> io::Result<()> {
        let extents = self.pages.take_dirty();
        let written = write_extents(storage, &extents);
        self.pages.settle(written.is_ok());
        written
    }
}
