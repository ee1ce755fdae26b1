//! Making changes durable, in an order of which every prefix is a sound image.
//!
//! Requests change the tables in memory only; guest data goes to its place in the file at once, but nothing on the
//! disk refers to a new place yet. A commit copies what has changed at one instant, and then:
//!
//! 1. writes the refcounts, and syncs: with them, the data and the new, empty tables are durable, and counted;
//!    (a new refcount block is entered into the refcount table between two syncs of its own)
//! 2. writes the L2 and L1 entries, and syncs: now everything can be found;
//! 3. lets go of the clusters that lost their reference: only now may their counts fall and their places be used
//!    again, once the last request that may still be using them has ended.
//!
//! A power cut within 1 leaves clusters that are counted and not referred to: leaks. Within 2, each entry is old or
//! new by itself, since a sector is never torn, and both are right. After 2, the old places are leaked until their
//! counts are written, with the next commit.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::Qcow2Image;
use super::metadata::Snapshot;
use super::pages::write_extents;
use crate::locking::{lock, write};

/// How many clusters are freed while others wait for the tables.
const FREED_AT_ONCE: u64 = 4096;

/// What the commits so far have done.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// The last flush that they served.
    flushes: u64,
}

impl Qcow2Image {
    /// Makes durable what was written before the call. Flushes that wait for each other share one commit.
    pub(super) fn flush_all(&self) -> io::Result<()> {
        let mine = self.flushes_asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut committed = lock(&self.committed);
        if committed.flushes >= mine {
            return Ok(());
        }
        self.check_sound()?;
        let served = self.flushes_asked.load(Ordering::Acquire);
        self.commit()?;
        committed.flushes = served;
        Ok(())
    }

    fn commit(&self) -> io::Result<()> {
        let snapshot = write(&self.metadata).take_snapshot();
        let written = self.write_snapshot(&snapshot);
        if written.is_err() {
            self.unsynced.store(true, Ordering::Release);
        }
        write(&self.metadata).settle(snapshot, written.is_ok());
        written?;
        let unused = write(&self.metadata).take_unused(&self.in_flight);
        for clusters in unused {
            self.free(clusters);
        }
        Ok(())
    }

    fn write_snapshot(&self, snapshot: &Snapshot) -> io::Result<()> {
        let storage = &*self.storage;
        let mut unsynced = self.unsynced.swap(false, Ordering::AcqRel) || snapshot.initialised;
        if !snapshot.refcount_pages.is_empty() {
            write_extents(storage, &snapshot.refcount_pages)?;
            unsynced = true;
        }
        if !snapshot.refcount_table.is_empty() {
            self.sync()?;
            write_extents(storage, &snapshot.refcount_table)?;
            unsynced = true;
        }
        if !snapshot.l2_pages.is_empty() || !snapshot.l1_table.is_empty() {
            if unsynced {
                self.sync()?;
            }
            write_extents(storage, &snapshot.l2_pages)?;
            write_extents(storage, &snapshot.l1_table)?;
            unsynced = true;
        }
        if unsynced { self.sync() } else { Ok(()) }
    }

    /// Syncs. After a failure the system may have dropped what it could not write and call the next sync a success,
    /// so nothing is promised any more.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.storage.sync().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// Frees clusters that nothing on the disk refers to and no request uses. The caller is a commit.
    fn free(&self, clusters: Range<u64>) {
        let mut first = clusters.start;
        while first < clusters.end {
            let end = clusters.end.min(first + FREED_AT_ONCE);
            for run in self.release_shared(first..end) {
                let (start, end) = (self.geometry.offset(run.start), self.geometry.offset(run.end));
                // Still counted, so nobody else can have taken it.
                if let Err(error) = self.storage.give_back(start, end - start) {
                    tracing::debug!(%error, start, "space was not given back");
                }
                let mut metadata = write(&self.metadata);
                metadata.l2.forget(start, end);
                metadata.unallocate(&*self.storage, run);
            }
            first = end;
        }
    }

    /// Takes a reference from the clusters that have others. Returns those that have none.
    fn release_shared(&self, clusters: Range<u64>) -> Vec<Range<u64>> {
        let mut last: Vec<Range<u64>> = Vec::new();
        let mut metadata = write(&self.metadata);
        for cluster in clusters {
            match metadata.refcounts.get(&*self.storage, cluster) {
                Ok(1) => match last.last_mut() {
                    Some(run) if run.end == cluster => run.end += 1,
                    _ => last.push(cluster..cluster + 1),
                },
                Ok(_) => metadata.unallocate(&*self.storage, cluster..cluster + 1),
                Err(error) => tracing::debug!(%error, cluster, "a cluster is leaked"),
            }
        }
        last
    }
}
