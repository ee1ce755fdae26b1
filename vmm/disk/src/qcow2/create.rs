//! Making an empty image.

use std::io;

use super::geometry::{Geometry, SECTOR};
use super::header::{MAGIC, MAX_L1_BYTES};
use crate::storage::{Storage, write_at};

/// The choices to be made when an image is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The size of the disk.
    pub virtual_size: u64,
    /// The logarithm of the cluster's size: 9 to 21.
    pub cluster_bits: u32,
    /// The logarithm of a refcount's width in bits: 0 to 6. Version 2 has 4.
    pub refcount_order: u32,
    /// Version 2 or 3 of the format.
    pub version: u32,
}

impl Layout {
    /// The layout of our overlays: clusters of 64 KiB, refcounts of 16 bits, version 3.
    pub fn new(virtual_size: u64) -> Self {
        Self { virtual_size, cluster_bits: 16, refcount_order: 4, version: 3 }
    }

    /// Writes an empty image; the caller syncs.
    ///
    /// # Errors
    ///
    /// A layout that cannot be is [`io::ErrorKind::InvalidInput`].
    pub fn write(self, storage: &dyn Storage) -> io::Result<()> {
        let geometry = self.geometry()?;
        let l1_entries = geometry.l1_entries(self.virtual_size);
        let l1_clusters = geometry.clusters(l1_entries * 8);

        // Enough refcount blocks to count everything, themselves and their table included.
        let (mut table_clusters, mut blocks) = (1, 1);
        let total = loop {
            let total = 1 + table_clusters + blocks + l1_clusters;
            let needed = total.div_ceil(1 << geometry.block_bits());
            let needed_table = needed.div_ceil(1 << geometry.table_bits());
            if needed <= blocks && needed_table <= table_clusters {
                break total;
            }
            (blocks, table_clusters) = (needed.max(blocks), needed_table.max(table_clusters));
        };
        let first_block = 1 + table_clusters;
        let l1_offset = geometry.offset(first_block + blocks);

        storage.set_length(geometry.offset(total))?;
        let table: Vec<u8> = (first_block..first_block + blocks)
            .flat_map(|block| geometry.offset(block).to_be_bytes())
            .collect();
        write_at(storage, &table, geometry.cluster_size())?;
        for block in 0..blocks {
            let counted = total.saturating_sub(block << geometry.block_bits());
            let counts = ones(counted.min(1 << geometry.block_bits()), geometry.refcount_order);
            // The space is reserved, so that a full disk is met by a write of the guest and not by its flush.
            storage.write_zeroes(geometry.offset(first_block + block), geometry.cluster_size(), false)?;
            write_at(storage, &counts, geometry.offset(first_block + block))?;
        }
        storage.write_zeroes(l1_offset, l1_entries * 8, false)?;
        write_at(storage, &self.header(l1_entries, l1_offset, table_clusters), 0)
    }

    fn geometry(self) -> io::Result<Geometry> {
        let geometry = Geometry { cluster_bits: self.cluster_bits, refcount_order: self.refcount_order };
        let refcounts = self.refcount_order == 4 || (self.version == 3 && self.refcount_order <= 6);
        let possible = (9..=21).contains(&self.cluster_bits)
            && matches!(self.version, 2 | 3)
            && refcounts
            && geometry.l1_entries(self.virtual_size) <= MAX_L1_BYTES / 8;
        if possible { Ok(geometry) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn header(self, l1_entries: u64, l1_offset: u64, table_clusters: u64) -> Vec<u8> {
        let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let mut header = Vec::with_capacity(crate::bytes::index(SECTOR));
        header.extend(MAGIC.to_be_bytes());
        header.extend(self.version.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(self.cluster_bits.to_be_bytes());
        header.extend(self.virtual_size.to_be_bytes());
        header.extend([0; 4]); // not encrypted
        header.extend(low(l1_entries));
        header.extend(l1_offset.to_be_bytes());
        header.extend((1_u64 << self.cluster_bits).to_be_bytes()); // the refcount table
        header.extend(low(table_clusters));
        header.extend([0; 12]); // no snapshots
        if self.version == 3 {
            header.extend([0; 24]); // no features
            header.extend(self.refcount_order.to_be_bytes());
            header.extend(104_u32.to_be_bytes());
        }
        header
    }
}

/// `count` refcounts of one.
fn ones(count: u64, order: u32) -> Vec<u8> {
    let bits = crate::bytes::index(count << order);
    let mut bytes = vec![0; bits.div_ceil(8)];
    for position in (0..bits).step_by(1 << order) {
        if order < 3 {
            bytes[position / 8] |= 1 << (position % 8);
        } else {
            bytes[(position + (1 << order)) / 8 - 1] = 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiskImage;
    use crate::qcow2::{Qcow2Image, check};
    use crate::testing::MemoryStorage;
    use std::sync::Arc;

    #[test]
    fn an_empty_image_of_any_layout_is_sound_and_opens() {
        for (cluster_bits, refcount_order, version, virtual_size) in [
            (16, 4, 3, 20 << 30),
            (9, 0, 3, 1 << 30),
            (9, 6, 3, 1 << 30),
            (21, 6, 3, 1 << 40),
            (12, 4, 2, 0),
            (9, 4, 2, 5),
        ] {
            let storage = Arc::new(MemoryStorage::default());
            let layout = Layout { virtual_size, cluster_bits, refcount_order, version };
            layout.write(&*storage).unwrap();
            let report = check(&*storage).unwrap();
            assert_eq!((report.corruptions, report.leaks), (0, 0), "{layout:?}: {:?}", report.findings);
            let image = Qcow2Image::open(storage, None, false).unwrap();
            assert_eq!(image.size(), virtual_size);
        }
    }

    #[test]
    fn an_impossible_layout_is_refused() {
        let layout = Layout::new(1 << 30);
        for wrong in [
            Layout { cluster_bits: 8, ..layout },
            Layout { cluster_bits: 22, ..layout },
            Layout { refcount_order: 7, ..layout },
            Layout { version: 2, refcount_order: 3, ..layout },
            Layout { version: 4, ..layout },
            Layout { virtual_size: u64::MAX, ..layout },
            Layout { virtual_size: 1 << 40, cluster_bits: 9, ..layout },
        ] {
            assert!(wrong.write(&MemoryStorage::default()).is_err(), "{wrong:?}");
        }
    }
}
