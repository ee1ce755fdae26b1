//! Discarding and zeroing: whole clusters lose their place in the file, parts of clusters are zeroed where they lie.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::Qcow2Image;
use super::entry::{Mapping, ZERO};
use super::in_flight::Ticket;
use super::metadata::Metadata;
use super::refcount::AllocateError;
use crate::bytes::index;
use crate::locking::read;

/// What is written at once where zeroes must be written out.
static ZEROES: [u8; 65536] = [0; 65536];

/// Why a range is zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nobody needs it: what costs space for nothing is left out.
    Discard,
    /// It must read as zeroes, and may lose its space with `unmap`.
    Zero { unmap: bool },
}

impl Purpose {
    fn unmaps(self) -> bool {
        self != Self::Zero { unmap: false }
    }
}

/// What is done about a whole cluster.
enum Action {
    Keep,
    Unmap,
    ZeroInPlace(u64),
}

impl Qcow2Image {
    /// Zeroes or discards what lies within the disk.
    pub(super) fn zero_range(&self, offset: u64, length: u64, purpose: Purpose) -> io::Result<()> {
        let geometry = self.geometry;
        let end = offset + length;
        let first = geometry.clusters(offset);
        // What follows the end of the disk in its last cluster is nobody's.
        let last = if end == self.size { geometry.clusters(end) } else { geometry.cluster(end) };
        // Version 2 has no zero clusters.
        if self.version < 3 || first >= last {
            return self.zero_parts(offset, length, purpose);
        }
        self.zero_parts(offset, geometry.offset(first) - offset, purpose)?;
        self.zero_clusters(first..last, purpose)?;
        let tail = geometry.offset(last);
        self.zero_parts(tail, end.saturating_sub(tail), purpose)
    }

    /// Zeroes without touching the tables where that is possible, by writing where it is not.
    fn zero_parts(&self, offset: u64, length: u64, purpose: Purpose) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let position = offset + done;
            let (mapping, covered, ticket) = self.find(position, length - done)?;
            done += match mapping {
                Mapping::Data { host, copied: true } => {
                    self.check_unprotected(&self.host_clusters(host, covered, position))?;
                    let within = position & (self.geometry.cluster_size() - 1);
                    self.zero_storage(host + within, covered, purpose.unmaps())?;
                    covered
                }
                Mapping::Zero { .. } => covered,
                _ if purpose == Purpose::Discard => covered,
                Mapping::Unallocated if !self.is_backed(position) => covered,
                _ => {
                    drop(ticket);
                    let now = covered.min(ZEROES.len() as u64);
                    self.write_at(&[IoSlice::new(&ZEROES[..index(now)])], position)?;
                    now
                }
            };
        }
        Ok(())
    }

    fn zero_storage(&self, place: u64, length: u64, unmap: bool) -> io::Result<()> {
        let zeroed = self.storage.write_zeroes(place, length, unmap);
        self.unsynced.store(true, Ordering::Release);
        zeroed
    }

    fn zero_clusters(&self, clusters: Range<u64>, purpose: Purpose) -> io::Result<()> {
        let geometry = self.geometry;
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let wanted = purpose != Purpose::Discard && self.is_backed(geometry.offset(cluster));
            if !wanted && !read(&self.metadata).has_table(cluster)? {
                cluster = geometry.table_end(cluster);
                continue;
            }
            let end = clusters.end.min(geometry.page_end(cluster));
            self.relieve()?;
            let _claim = self.claims.claim(cluster..end);
            let (places, _ticket) =
                self.with_space(|metadata| self.unmap_clusters(metadata, cluster..end, purpose))?;
            for place in places {
                let first = geometry.cluster(place.start);
                self.check_unprotected(&(first..geometry.clusters(place.end)))?;
                self.zero_storage(place.start, place.end - place.start, false)?;
            }
            cluster = end;
        }
        Ok(())
    }

    /// Unmaps clusters that share a page of their L2 table. Returns the places in the file to zero instead.
    fn unmap_clusters(
        &self,
        metadata: &mut Metadata,
        clusters: Range<u64>,
        purpose: Purpose,
    ) -> Result<(Vec<Range<u64>>, Ticket<'_>), AllocateError> {
        let storage = &*self.storage;
        let mut places: Vec<Range<u64>> = Vec::new();
        let mut unmapped = Vec::new();
        for cluster in clusters {
            let (mapping, _) = metadata.lookup_loading(storage, cluster, 1)?;
            match self.action(mapping, cluster, purpose) {
                Action::Keep => {}
                Action::Unmap => unmapped.push(cluster),
                Action::ZeroInPlace(host) => {
                    let end = host + self.geometry.cluster_size();
                    match places.last_mut() {
                        Some(last) if last.end == host => last.end = end,
                        _ => places.push(host..end),
                    }
                }
            }
        }
        if let Some(&first) = unmapped.first() {
            metadata.prepare_table(storage, first)?;
        }
        for cluster in unmapped {
            metadata.set_entry(storage, cluster, ZERO)?;
        }
        Ok((places, self.in_flight.enter(metadata.epoch)))
    }

    fn action(&self, mapping: Mapping, cluster: u64, purpose: Purpose) -> Action {
        match mapping {
            Mapping::Data { host, copied: true } if !purpose.unmaps() => Action::ZeroInPlace(host),
            Mapping::Data { .. } | Mapping::Compressed(_) => Action::Unmap,
            Mapping::Zero { reserved: Some(_) } if purpose.unmaps() => Action::Unmap,
            Mapping::Zero { .. } => Action::Keep,
            Mapping::Unallocated => {
                let shows_through = self.is_backed(self.geometry.offset(cluster));
                if purpose != Purpose::Discard && shows_through { Action::Unmap } else { Action::Keep }
            }
        }
    }
}
