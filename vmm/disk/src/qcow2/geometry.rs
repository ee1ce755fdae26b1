//! The sizes that follow from a header: clusters, tables, refcounts.

/// The smallest cluster is 512 bytes.
pub(crate) const MIN_CLUSTER_BITS: u32 = 9;
/// The largest cluster is 2 MiB.
pub(crate) const MAX_CLUSTER_BITS: u32 = 21;
/// What is written at once without being torn by a power cut.
pub(crate) const SECTOR: u64 = 512;

/// Tables are cached and written in pages of at most this many bits.
const MAX_PAGE_BITS: u32 = 12;

/// Cluster numbers and table indices of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The logarithm of the cluster's size.
    pub(crate) cluster_bits: u32,
    /// The logarithm of a refcount's width in bits: 0 to 6.
    pub(crate) refcount_order: u32,
}

impl Geometry {
    /// Bytes in a cluster.
    pub(crate) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes in a page: a cluster, or 4 KiB of it.
    pub(crate) fn page_size(self) -> u64 {
        1 << self.page_bits()
    }

    fn page_bits(self) -> u32 {
        self.cluster_bits.min(MAX_PAGE_BITS)
    }

    /// Entries of an L2 table, as a logarithm.
    pub(crate) fn table_bits(self) -> u32 {
        self.cluster_bits - 3
    }

    /// Clusters that one refcount block counts, as a logarithm.
    pub(crate) fn block_bits(self) -> u32 {
        self.cluster_bits + 3 - self.refcount_order
    }

    /// The cluster that holds the byte at `offset`.
    pub(crate) fn cluster(self, offset: u64) -> u64 {
        offset >> self.cluster_bits
    }

    /// The first byte of a cluster.
    pub(crate) fn offset(self, cluster: u64) -> u64 {
        cluster << self.cluster_bits
    }

    /// How many clusters hold `bytes`.
    pub(crate) fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Whether the offset is the first byte of a cluster.
    pub(crate) fn is_aligned(self, offset: u64) -> bool {
        offset & (self.cluster_size() - 1) == 0
    }

    /// The L1 entry that leads to a guest cluster.
    pub(crate) fn l1_index(self, guest_cluster: u64) -> u64 {
        guest_cluster >> self.table_bits()
    }

    /// The first guest cluster after those that share an L2 table with `guest_cluster`.
    pub(crate) fn table_end(self, guest_cluster: u64) -> u64 {
        (self.l1_index(guest_cluster) + 1) << self.table_bits()
    }

    /// The first guest cluster after those whose L2 entries share a page with that of `guest_cluster`.
    pub(crate) fn page_end(self, guest_cluster: u64) -> u64 {
        let bits = self.page_bits() - 3;
        ((guest_cluster >> bits) + 1) << bits
    }

    /// Where an L2 entry lies in its table: the page's offset in the table, and the entry's in the page.
    pub(crate) fn l2_position(self, guest_cluster: u64) -> (u64, usize) {
        self.split((guest_cluster & ((1 << self.table_bits()) - 1)) << 3)
    }

    /// Splits an offset in a table into that of the page, and that in the page.
    pub(crate) fn split(self, offset: u64) -> (u64, usize) {
        let within = offset & (self.page_size() - 1);
        (offset - within, crate::bytes::index(within))
    }

    /// How many L1 entries a disk of `size` bytes needs.
    pub(crate) fn l1_entries(self, size: u64) -> u64 {
        self.clusters(size).div_ceil(1 << self.table_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_sizes_follow() {
        let geometry = Geometry { cluster_bits: 16, refcount_order: 4 };
        assert_eq!(geometry.page_size(), 4096);
        assert_eq!(geometry.l1_entries(20 << 30), 40);
        assert_eq!(geometry.l1_entries((20 << 30) + 1), 41);
        assert_eq!(1 << geometry.block_bits(), 32768);
        assert_eq!(geometry.l2_position(8191), (61440, 4088));
        assert_eq!(geometry.page_end(511), 512);
        assert_eq!(geometry.table_end(8191), 8192);
    }

    #[test]
    fn a_small_cluster_is_its_own_page() {
        let geometry = Geometry { cluster_bits: 9, refcount_order: 6 };
        assert_eq!(geometry.page_size(), 512);
        assert_eq!(geometry.page_end(0), 64);
        assert_eq!(geometry.table_end(0), 64);
        assert_eq!(1 << geometry.block_bits(), 64);
    }
}
