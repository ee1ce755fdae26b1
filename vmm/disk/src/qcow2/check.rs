//! Judging an image: does every reference have its count, and every count its reference?

use std::io;
use std::ops::Range;

use snafu::{ResultExt, Snafu, ensure};

use super::entry::{COMPRESSED, COPIED, Mapping, OFFSET_MASK, ZERO};
use super::geometry::Geometry;
use super::header::{Header, HeaderError};
use super::refcount::Refcounts;
use super::table::{Table, number};
use crate::bytes::index;
use crate::storage::{Storage, read_at};

/// Larger files are not checked: the counts are held in memory.
const MAX_CLUSTERS: u64 = 1 << 26;
/// Not more findings are told, however many there are.
const MAX_FINDINGS: usize = 20;
/// The format's own limit.
const MAX_SNAPSHOTS: u32 = 65536;

/// Bits of an L1 entry that mean nothing.
const L1_RESERVED: u64 = !(COPIED | OFFSET_MASK);
/// Bits of an L2 entry that mean nothing.
const L2_RESERVED: u64 = !(COPIED | COMPRESSED | OFFSET_MASK | ZERO);

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Errors that can lose data.
    pub corruptions: u64,
    /// Clusters that are counted and not referred to: lost space, no harm.
    pub leaks: u64,
    /// Guest clusters that have a place in the file.
    pub allocated_clusters: u64,
    /// The first few errors, in words.
    pub findings: Vec<String>,
}

/// Why an image could not be checked.
#[derive(Debug, Snafu)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CheckError {
    #[snafu(display("the header is not one that can be checked"))]
    Header { source: HeaderError },
    #[snafu(display("cannot read the image"))]
    Read { source: io::Error },
    #[snafu(display("the file has {clusters} clusters, too many to check"))]
    TooLarge { clusters: u64 },
    #[snafu(display("the image has {count} snapshots, or a table of them that cannot be read"))]
    Snapshots { count: u32 },
}

/// Checks an image that nobody writes.
pub fn check(storage: &dyn Storage) -> Result<CheckReport, CheckError> {
    let header = Header::read(storage).context(HeaderSnafu)?;
    let geometry = header.geometry;
    let clusters = geometry.clusters(storage.length().context(ReadSnafu)?);
    ensure!(clusters <= MAX_CLUSTERS, TooLargeSnafu { clusters });
    let entries = header.refcount_table_clusters << geometry.table_bits();
    let table = Table::read(storage, header.refcount_table_offset, entries).context(ReadSnafu)?;
    let mut checker = Checker {
        storage,
        geometry,
        version: header.version,
        references: vec![0; index(clusters)],
        refcounts: Refcounts::new(geometry, table, 64, clusters),
        report: CheckReport::default(),
    };
    checker.count_tables(&header)?;
    checker.compare()?;
    Ok(checker.report)
}

struct Checker<'a> {
    storage: &'a dyn Storage,
    geometry: Geometry,
    version: u32,
    /// How often each cluster of the file is referred to.
    references: Vec<u32>,
    refcounts: Refcounts,
    report: CheckReport,
}

impl Checker<'_> {
    fn count_tables(&mut self, header: &Header) -> Result<(), CheckError> {
        let geometry = self.geometry;
        self.refer("the header", 0..1);
        let first = geometry.cluster(header.refcount_table_offset);
        self.refer("the refcount table", first..first + header.refcount_table_clusters);
        for region in 0..self.refcounts.table.len() {
            let block = self.refcounts.table.get(region) & !511;
            if block == 0 {
                continue;
            }
            if !geometry.is_aligned(block) {
                self.corrupt(format!("refcount block {region} at {block:#x} is misaligned"));
                continue;
            }
            self.refer("a refcount block", geometry.cluster(block)..geometry.cluster(block) + 1);
        }
        self.count_l1(header.l1_offset, header.l1_entries, true)?;
        self.count_snapshots(header)
    }

    fn count_snapshots(&mut self, header: &Header) -> Result<(), CheckError> {
        let count = header.snapshots;
        let broken = || SnapshotsSnafu { count }.build();
        if count == 0 {
            return Ok(());
        }
        ensure!(count <= MAX_SNAPSHOTS, SnapshotsSnafu { count });
        let start = header.snapshots_offset;
        ensure!(self.geometry.is_aligned(start), SnapshotsSnafu { count });
        let file_end = self.geometry.offset(self.references.len() as u64);
        let mut at = start;
        for _ in 0..count {
            ensure!(at < file_end, SnapshotsSnafu { count });
            let mut fixed = [0; 40];
            read_at(self.storage, &mut fixed, at).context(ReadSnafu)?;
            let (l1_offset, l1_entries) = (number(&fixed[..8]), number(&fixed[8..12]));
            let inside = self.geometry.is_aligned(l1_offset)
                && l1_offset.checked_add(l1_entries * 8).is_some_and(|end| end <= file_end);
            if !inside {
                return Err(broken());
            }
            self.count_l1(l1_offset, l1_entries, false)?;
            let names = number(&fixed[12..14]) + number(&fixed[14..16]);
            at += (40 + number(&fixed[36..40]) + names).next_multiple_of(8);
        }
        self.refer("the snapshot table", self.geometry.cluster(start)..self.geometry.clusters(at));
        Ok(())
    }

    fn count_l1(&mut self, offset: u64, entries: u64, active: bool) -> Result<(), CheckError> {
        let geometry = self.geometry;
        let table = Table::read(self.storage, offset, entries).context(ReadSnafu)?;
        let first = geometry.cluster(offset);
        self.refer("the L1 table", first..first + geometry.clusters(entries * 8));
        for position in 0..entries {
            let entry = table.get(position);
            let l2_offset = entry & OFFSET_MASK;
            if entry == 0 {
                continue;
            }
            if l2_offset == 0 || entry & L1_RESERVED != 0 {
                self.corrupt(format!("L1 entry {position} is {entry:#x}"));
                continue;
            }
            let cluster = geometry.cluster(l2_offset);
            if !geometry.is_aligned(l2_offset) || cluster >= self.references.len() as u64 {
                self.corrupt(format!("L1 entry {position} points to {l2_offset:#x}"));
                continue;
            }
            self.refer("an L2 table", cluster..cluster + 1);
            if active {
                self.check_copied(cluster, entry & COPIED != 0, || format!("L1 entry {position}"))?;
            }
            self.count_l2(l2_offset, active)?;
        }
        Ok(())
    }

    fn count_l2(&mut self, offset: u64, active: bool) -> Result<(), CheckError> {
        let geometry = self.geometry;
        let file_end = geometry.offset(self.references.len() as u64);
        let mut table = vec![0; index(geometry.cluster_size())];
        read_at(self.storage, &mut table, offset).context(ReadSnafu)?;
        for (position, bytes) in table.chunks_exact(8).enumerate() {
            let entry = number(bytes);
            if entry & COMPRESSED == 0 && entry & L2_RESERVED != 0 {
                self.corrupt(format!("entry {position} of the L2 table at {offset:#x} is {entry:#x}"));
            }
            let mapping = match Mapping::decode(entry, geometry, self.version, file_end) {
                Ok(mapping) => mapping,
                Err(error) => {
                    self.corrupt(format!("entry {position} of the L2 table at {offset:#x}: {error}"));
                    continue;
                }
            };
            let Some((first, count)) = mapping.host_clusters(geometry) else { continue };
            self.report.allocated_clusters += u64::from(active);
            // The last sectors of a compressed cluster may lie past the end of the file.
            let end = (first + count).min(self.references.len() as u64);
            self.refer("guest data", first..end);
            if active && !matches!(mapping, Mapping::Compressed(_)) {
                let place = || format!("entry {position} of the L2 table at {offset:#x}");
                self.check_copied(first, entry & COPIED != 0, place)?;
            }
        }
        Ok(())
    }

    /// The flag says that a cluster has exactly one reference.
    fn check_copied(
        &mut self,
        cluster: u64,
        copied: bool,
        place: impl Fn() -> String,
    ) -> Result<(), CheckError> {
        let count = self.count(cluster)?;
        if (count == 1) != copied {
            self.corrupt(format!("{}: copied is {copied}, but the refcount is {count}", place()));
        }
        Ok(())
    }

    fn refer(&mut self, what: &str, clusters: Range<u64>) {
        for cluster in clusters {
            match self.references.get_mut(index(cluster)) {
                Some(references) => *references = references.saturating_add(1),
                None => self.corrupt(format!("{what} lies past the end of the file, in cluster {cluster}")),
            }
        }
    }

    fn compare(&mut self) -> Result<(), CheckError> {
        for cluster in 0..self.references.len() as u64 {
            let count = self.count(cluster)?;
            let references = u64::from(self.references[index(cluster)]);
            if count < references {
                self.corrupt(format!(
                    "cluster {cluster} is counted {count} times and has {references} references"
                ));
            } else if count > references {
                self.report.leaks += 1;
            }
        }
        Ok(())
    }

    fn count(&mut self, cluster: u64) -> Result<u64, CheckError> {
        match self.refcounts.get(self.storage, cluster) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.corrupt(format!("cluster {cluster}: {error}"));
                Ok(0)
            }
            count => count.context(ReadSnafu),
        }
    }

    fn corrupt(&mut self, what: String) {
        self.report.corruptions += 1;
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(what);
        }
    }
}
