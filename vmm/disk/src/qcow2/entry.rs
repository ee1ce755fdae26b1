//! What an L2 entry says, and what of it can be believed.

use std::io;

use super::geometry::Geometry;

/// Bits 9 to 55: an offset in the file.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster has exactly one reference, so it may be written in place.
pub(crate) const COPIED: u64 = 1 << 63;
/// The cluster is compressed; the other bits mean something else then.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3).
pub(crate) const ZERO: u64 = 1;

/// Where the bytes of a guest cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// In the layer below, or nowhere: then they are zeroes.
    Unallocated,
    /// Zeroes; a cluster of the file may be reserved for them.
    Zero { reserved: Option<u64> },
    /// In the file at `host`, and nobody else needs what is there if `copied`.
    Data { host: u64, copied: bool },
    /// In the file, compressed.
    Compressed(CompressedCluster),
}

/// Where a compressed cluster lies: from `offset`, not aligned, to the end of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CompressedCluster {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Mapping {
    /// Reads an entry of an L2 table. `file_end` is the end of the file, rounded up to a cluster.
    pub(crate) fn decode(entry: u64, geometry: Geometry, version: u32, file_end: u64) -> io::Result<Self> {
        if entry & COMPRESSED != 0 {
            let cluster = CompressedCluster::decode(entry, geometry);
            return if cluster.offset < file_end {
                Ok(Self::Compressed(cluster))
            } else {
                Err(invalid("a compressed cluster lies past the end of the file"))
            };
        }
        let host = entry & OFFSET_MASK;
        if !geometry.is_aligned(host) {
            return Err(invalid("an L2 entry points into the middle of a cluster"));
        }
        if host >= file_end {
            return Err(invalid("an L2 entry points past the end of the file"));
        }
        if entry & ZERO != 0 {
            if version < 3 {
                return Err(invalid("an L2 entry of a version 2 image has the zero flag"));
            }
            return Ok(Self::Zero { reserved: (host != 0).then_some(host) });
        }
        if host == 0 {
            return Ok(Self::Unallocated);
        }
        Ok(Self::Data { host, copied: entry & COPIED != 0 })
    }

    /// The entry for data at `host` that nobody shares.
    pub(crate) fn entry_for_data(host: u64) -> u64 {
        host | COPIED
    }

    /// Whether `next`, `distance` clusters later in the guest, continues this mapping in the file.
    pub(crate) fn continues(self, next: Self, distance: u64, geometry: Geometry) -> bool {
        match (self, next) {
            (Self::Unallocated, Self::Unallocated) | (Self::Zero { .. }, Self::Zero { .. }) => true,
            (Self::Data { host, copied }, Self::Data { host: next, copied: next_copied }) => {
                next_copied == copied && host + geometry.offset(distance) == next
            }
            _ => false,
        }
    }

    /// The clusters of the file that this mapping refers to: the first, and how many.
    pub(crate) fn host_clusters(self, geometry: Geometry) -> Option<(u64, u64)> {
        match self {
            Self::Unallocated | Self::Zero { reserved: None } => None,
            Self::Zero { reserved: Some(host) } | Self::Data { host, .. } => {
                Some((geometry.cluster(host), 1))
            }
            Self::Compressed(compressed) => {
                let first = geometry.cluster(compressed.offset);
                let last = geometry.cluster(compressed.offset + compressed.length - 1);
                Some((first, last - first + 1))
            }
        }
    }
}

impl CompressedCluster {
    fn decode(entry: u64, geometry: Geometry) -> Self {
        let offset_bits = 62 - (geometry.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry >> offset_bits) & ((1 << (geometry.cluster_bits - 8)) - 1)) + 1;
        Self { offset, length: sectors * 512 - (offset & 511) }
    }
}

/// The error for metadata that cannot be right.
pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the qcow2 image is corrupt: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { cluster_bits: 16, refcount_order: 4 };
    const END: u64 = 1 << 30;

    fn decode(entry: u64) -> io::Result<Mapping> {
        Mapping::decode(entry, GEOMETRY, 3, END)
    }

    #[test]
    fn entries_are_told_apart() {
        assert_eq!(decode(0).unwrap(), Mapping::Unallocated);
        assert_eq!(decode(1).unwrap(), Mapping::Zero { reserved: None });
        assert_eq!(decode(0x10001).unwrap(), Mapping::Zero { reserved: Some(0x10000) });
        assert_eq!(decode(COPIED | 0x10000).unwrap(), Mapping::Data { host: 0x10000, copied: true });
        assert_eq!(decode(0x10000).unwrap(), Mapping::Data { host: 0x10000, copied: false });
    }

    #[test]
    fn a_compressed_cluster_ends_with_a_sector() {
        // 64 KiB clusters: 54 bits of offset, then 8 bits of further sectors.
        let entry = COMPRESSED | 2 << 54 | 0x10033;
        let cluster = CompressedCluster { offset: 0x10033, length: 3 * 512 - 0x33 };
        assert_eq!(decode(entry).unwrap(), Mapping::Compressed(cluster));
    }

    #[test]
    fn what_cannot_be_right_is_an_error() {
        assert!(decode(COPIED | 0x10200).is_err());
        assert!(decode(COPIED | END).is_err());
        assert!(decode(COMPRESSED | END).is_err());
        assert!(Mapping::decode(ZERO, GEOMETRY, 2, END).is_err());
    }
}
