//! The header, read with suspicion: everything that cannot be right is refused here, by name.

use std::io;

use snafu::{ResultExt, Snafu, ensure};

use super::compressed::Compression;
use super::create::Layout;
use super::geometry::{Geometry, MAX_CLUSTER_BITS, MIN_CLUSTER_BITS};
use super::table::Table;
use crate::storage::{Storage, read_at};

pub(crate) const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
/// The header of version 2 ends here, and extensions begin.
const VERSION_2_LENGTH: u64 = 72;
/// The least that a header of version 3 is long.
const VERSION_3_LENGTH: u64 = 104;
/// No L1 table is larger: 128 GiB of disk with the smallest clusters, 2 PiB with those of 64 KiB.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// No refcount table is larger.
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// A name of a backing file is not longer.
const MAX_NAME: u64 = 1023;

/// Byte 24 of the header: the disk's size (8 bytes).
pub(crate) const SIZE_AT: u64 = 24;
/// Byte 36: the L1 table's entries (4 bytes) and its offset (8 bytes).
pub(crate) const L1_AT: u64 = 36;
/// Byte 48: the refcount table's offset (8 bytes) and its clusters (4 bytes).
pub(crate) const REFCOUNT_TABLE_AT: u64 = 48;
/// Byte 88: what must be cleared by a writer that does not know it (8 bytes).
pub(crate) const AUTOCLEAR_AT: u64 = 88;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;

/// Why a qcow2 image is not opened.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HeaderError {
    #[snafu(display("cannot read the header"))]
    Read { source: io::Error },
    #[snafu(display("the file has {length} bytes, too few for a qcow2 header"))]
    TooShort { length: u64 },
    #[snafu(display("the file does not begin with qcow2's magic number"))]
    Magic,
    #[snafu(display("version {version} of qcow2 is not known (only 2 and 3 are)"))]
    Version { version: u32 },
    #[snafu(display("clusters of 2^{bits} bytes are outside 512 bytes to 2 MiB"))]
    ClusterSize { bits: u32 },
    #[snafu(display("the image is encrypted, which is not supported"))]
    Encrypted,
    #[snafu(display("the header claims a length of {length} bytes"))]
    Length { length: u32 },
    #[snafu(display("a header extension reaches past the header's cluster"))]
    Extension,
    #[snafu(display("the image keeps its data in an external file, which is refused"))]
    ExternalData,
    #[snafu(display("the image has extended L2 entries (subclusters), which are not supported"))]
    ExtendedL2,
    #[snafu(display(
        "the image is compressed with method {method}: only deflate (0) and zstd (1) are known"
    ))]
    Compression { method: u8 },
    #[snafu(display("the image needs features that are not known (bits {bits:#x})"))]
    Features { bits: u64 },
    #[snafu(display("refcounts of 2^{order} bits are outside 1 to 64 bits"))]
    RefcountWidth { order: u32 },
    #[snafu(display("the disk's size of {size} bytes is absurd"))]
    Size { size: u64 },
    #[snafu(display("the name of the backing file lies outside the header's cluster or is too long"))]
    BackingName,
    #[snafu(display("the backing file is named by a json: description, which is refused"))]
    JsonName,
    #[snafu(display("the L1 table at {offset:#x} is not at the start of a cluster"))]
    L1Misaligned { offset: u64 },
    #[snafu(display("the L1 table has {entries} entries, too many"))]
    L1TooLarge { entries: u64 },
    #[snafu(display("the L1 table has {entries} entries, but the disk's size needs {needed}"))]
    L1TooSmall { entries: u64, needed: u64 },
    #[snafu(display("the L1 table reaches past the end of the file"))]
    L1Outside,
    #[snafu(display("the refcount table at {offset:#x} is not at the start of a cluster"))]
    RefcountTableMisaligned { offset: u64 },
    #[snafu(display("the refcount table of {clusters} clusters is empty or too large"))]
    RefcountTableSize { clusters: u64 },
    #[snafu(display("the refcount table reaches past the end of the file"))]
    RefcountTableOutside,
    #[snafu(display("the header, the L1 table and the refcount table lie over each other"))]
    Overlap,
    #[snafu(display("the refcounts are nonsense: {what} is counted as free"))]
    Refcounts { what: &'static str },
    #[snafu(display("a refcount block at {offset:#x} is not at the start of a cluster within the file"))]
    RefcountBlock { offset: u64 },
    #[snafu(display("the image was not closed cleanly (lazy refcounts): it can only be read"))]
    Dirty,
    #[snafu(display("the image is marked as corrupt: it can only be read"))]
    Corrupt,
    #[snafu(display("cannot prepare the header for writing"))]
    Prepare { source: io::Error },
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) geometry: Geometry,
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u64,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) autoclear: u64,
    pub(crate) compression: Compression,
    incompatible: u64,
    /// The name of the backing file. It is never followed.
    pub(crate) backing_name: Option<Vec<u8>>,
    /// The format that the header claims for it.
    pub(crate) backing_format: Option<Vec<u8>>,
}

impl Header {
    /// Reads and checks the header.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, HeaderError> {
        let file_length = storage.length().context(ReadSnafu)?;
        ensure!(file_length >= VERSION_2_LENGTH, TooShortSnafu { length: file_length });
        let mut fixed = vec![0; crate::bytes::index(VERSION_3_LENGTH + 8)];
        read_at(storage, &mut fixed, 0).context(ReadSnafu)?;
        let fixed = Bytes(&fixed);

        ensure!(fixed.u32(0) == MAGIC, MagicSnafu);
        let version = fixed.u32(4);
        ensure!(matches!(version, 2 | 3), VersionSnafu { version });
        let cluster_bits = fixed.u32(20);
        let allowed = MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS;
        ensure!(allowed.contains(&cluster_bits), ClusterSizeSnafu { bits: cluster_bits });
        ensure!(fixed.u32(32) == 0, EncryptedSnafu);

        let (mut incompatible, mut autoclear, mut refcount_order) = (0, 0, 4);
        let mut compression = Compression::Deflate;
        let mut length = VERSION_2_LENGTH;
        if version == 3 {
            ensure!(file_length >= VERSION_3_LENGTH, TooShortSnafu { length: file_length });
            incompatible = fixed.u64(72);
            autoclear = fixed.u64(AUTOCLEAR_AT);
            refcount_order = fixed.u32(96);
            length = u64::from(fixed.u32(100));
            let possible = length >= VERSION_3_LENGTH && length <= 1 << cluster_bits;
            ensure!(possible, LengthSnafu { length: fixed.u32(100) });
            let method = if length > VERSION_3_LENGTH { fixed.0[104] } else { 0 };
            compression = check_features(incompatible, method)?;
        }
        ensure!(refcount_order <= 6, RefcountWidthSnafu { order: refcount_order });

        let mut first_cluster = vec![0; 1 << cluster_bits];
        read_at(storage, &mut first_cluster, 0).context(ReadSnafu)?;
        let header = Self {
            version,
            geometry: Geometry { cluster_bits, refcount_order },
            size: fixed.u64(SIZE_AT),
            l1_entries: u64::from(fixed.u32(L1_AT)),
            l1_offset: fixed.u64(L1_AT + 4),
            refcount_table_offset: fixed.u64(REFCOUNT_TABLE_AT),
            refcount_table_clusters: u64::from(fixed.u32(REFCOUNT_TABLE_AT + 8)),
            snapshots: fixed.u32(60),
            snapshots_offset: fixed.u64(64),
            autoclear,
            compression,
            incompatible,
            backing_name: backing_name(&first_cluster, fixed.u64(8), u64::from(fixed.u32(16)))?,
            backing_format: backing_format(&first_cluster, length, fixed.u64(8))?,
        };
        header.check_tables(file_length)?;
        Ok(header)
    }

    /// What an image of the same kind is made with.
    pub(crate) fn layout(&self) -> Layout {
        let Geometry { cluster_bits, refcount_order } = self.geometry;
        Layout { virtual_size: self.size, cluster_bits, refcount_order, version: self.version }
    }

    /// Refuses what may be read but not written.
    pub(crate) fn check_writable(&self) -> Result<(), HeaderError> {
        ensure!(self.incompatible & CORRUPT == 0, CorruptSnafu);
        ensure!(self.incompatible & DIRTY == 0, DirtySnafu);
        Ok(())
    }

    /// Whether the image has no cluster of the guest's.
    pub(crate) fn has_no_tables(&self, storage: &dyn Storage) -> io::Result<bool> {
        let l1 = Table::read(storage, self.l1_offset, self.l1_entries)?;
        Ok((0..l1.len()).all(|entry| l1.get(entry) == 0))
    }

    fn check_tables(&self, file_length: u64) -> Result<(), HeaderError> {
        let geometry = self.geometry;
        // The format's own limit: file offsets have 56 bits, and ours are signed.
        ensure!(self.size <= i64::MAX as u64 - MAX_L1_BYTES, SizeSnafu { size: self.size });
        let (entries, needed) = (self.l1_entries, geometry.l1_entries(self.size));
        ensure!(needed * 8 <= MAX_L1_BYTES, SizeSnafu { size: self.size });
        ensure!(entries * 8 <= MAX_L1_BYTES, L1TooLargeSnafu { entries });
        ensure!(entries >= needed, L1TooSmallSnafu { entries, needed });
        ensure!(geometry.is_aligned(self.l1_offset), L1MisalignedSnafu { offset: self.l1_offset });
        ensure!(ends_by(self.l1_offset, entries * 8, file_length), L1OutsideSnafu);

        let (offset, clusters) = (self.refcount_table_offset, self.refcount_table_clusters);
        ensure!(geometry.is_aligned(offset) && offset != 0, RefcountTableMisalignedSnafu { offset });
        let bytes = clusters << geometry.cluster_bits;
        ensure!((1..=MAX_REFCOUNT_TABLE_BYTES).contains(&bytes), RefcountTableSizeSnafu { clusters });
        // The last cluster of a file need not be whole.
        let whole = geometry.offset(geometry.clusters(file_length));
        ensure!(ends_by(offset, bytes, whole), RefcountTableOutsideSnafu);
        // What is written to one of them would change another.
        let l1_end = self.l1_offset + entries * 8;
        let apart = l1_end <= offset || offset + bytes <= self.l1_offset;
        ensure!(entries == 0 || (apart && self.l1_offset != 0), OverlapSnafu);
        Ok(())
    }
}

fn ends_by(offset: u64, length: u64, limit: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= limit)
}

fn check_features(incompatible: u64, method: u8) -> Result<Compression, HeaderError> {
    ensure!(incompatible & EXTERNAL_DATA == 0, ExternalDataSnafu);
    ensure!(incompatible & EXTENDED_L2 == 0, ExtendedL2Snafu);
    ensure!(incompatible & !KNOWN == 0, FeaturesSnafu { bits: incompatible & !KNOWN });
    // The flag is set for every method but the usual one.
    match (incompatible & COMPRESSION_TYPE != 0, method) {
        (false, 0) => Ok(Compression::Deflate),
        (true, 1) => Ok(Compression::Zstd),
        _ => CompressionSnafu { method }.fail(),
    }
}

fn backing_name(first_cluster: &[u8], offset: u64, length: u64) -> Result<Option<Vec<u8>>, HeaderError> {
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let inside = length <= MAX_NAME && ends_by(offset, length, first_cluster.len() as u64);
    ensure!(inside, BackingNameSnafu);
    let start = crate::bytes::index(offset);
    let name = &first_cluster[start..start + crate::bytes::index(length)];
    ensure!(!name.starts_with(b"json:"), JsonNameSnafu);
    Ok(Some(name.to_vec()))
}

/// Walks the header extensions for the only one that says something of interest. They end at the latest where the
/// backing file's name begins.
fn backing_format(
    first_cluster: &[u8],
    header_length: u64,
    name_offset: u64,
) -> Result<Option<Vec<u8>>, HeaderError> {
    let name_offset = if name_offset == 0 { usize::MAX } else { crate::bytes::index(name_offset) };
    let area = &first_cluster[..first_cluster.len().min(name_offset)];
    let mut format = None;
    let mut at = crate::bytes::index(header_length);
    // A header that fills its cluster leaves no room for the end mark either.
    while at + 8 <= area.len() {
        let head = Bytes(&area[at..at + 8]);
        let (kind, length) = (head.u32(0), head.u32(4) as usize);
        at += 8;
        if kind == EXTENSION_END {
            break;
        }
        ensure!(length <= area.len() - at, ExtensionSnafu);
        if kind == EXTENSION_BACKING_FORMAT {
            format = Some(area[at..at + length].to_vec());
        }
        at += length.next_multiple_of(8);
    }
    Ok(format)
}

/// Big-endian numbers in a slice that is long enough.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        let start = crate::bytes::index(offset);
        bytes.copy_from_slice(&self.0[start..start + 4]);
        u32::from_be_bytes(bytes)
    }

    fn u64(&self, offset: u64) -> u64 {
        u64::from(self.u32(offset)) << 32 | u64::from(self.u32(offset + 4))
    }
}
