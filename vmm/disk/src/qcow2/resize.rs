//! A larger disk: a longer L1 table where the old one does not reach, and the new size in the header.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::Qcow2Image;
use super::header::{MAX_L1_BYTES, SIZE_AT};
use crate::locking::write;
use crate::storage::write_at;

impl Qcow2Image {
    /// Makes the disk larger; what is new reads as zeroes. When it returns without an error the new size survives a power
    /// cut, and at every moment the image has the old size or the new one.
    pub fn grow_to(&mut self, size: u64) -> io::Result<()> {
        let entries = self.geometry.l1_entries(size);
        if size < self.size || entries > MAX_L1_BYTES / 8 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a disk cannot become so small or so large",
            ));
        }
        // A run of clusters never reaches past those that one refcount block counts, itself among them.
        let longest = (1 << self.geometry.block_bits()) - 1;
        if entries > write(&self.metadata).l1.len() && self.geometry.clusters(entries * 8) > longest {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "its clusters are too small for so large a disk",
            ));
        }
        // What requests before us have changed goes to the table of old.
        self.flush_all()?;
        let old = write(&self.metadata).l1.clone();
        let moved = entries > old.len();
        let new = if moved {
            let place = self.allocate_together(self.geometry.clusters(entries * 8))?;
            let new = old.grown(self.geometry.offset(place.start), entries);
            write_at(&*self.storage, &new.bytes(), new.offset())?;
            // The clusters are counted, and the table is there, before anything points to it.
            self.flush_all()?;
            self.sync()?;
            new
        } else {
            old.clone()
        };
        // Size, encryption (none), length and place of the L1 table: they lie in one sector, so it is all old or all new.
        let length = u32::try_from(new.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fields = size.to_be_bytes().to_vec();
        fields.extend([0; 4]);
        fields.extend(length.to_be_bytes());
        fields.extend(new.offset().to_be_bytes());
        write_at(&*self.storage, &fields, SIZE_AT)
            .and_then(|()| self.sync())
            .inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        self.size = size;
        if moved {
            let first = self.geometry.cluster(old.offset());
            let clusters = first..first + self.geometry.clusters(old.len() * 8);
            let mut metadata = write(&self.metadata);
            metadata.l1 = new;
            metadata.unallocate(&*self.storage, clusters);
        }
        self.flush_all()
    }

    /// Takes clusters that lie together, however scattered the free ones are.
    fn allocate_together(&self, count: u64) -> io::Result<Range<u64>> {
        let mut short = Vec::new();
        let found = loop {
            match self.with_space(|metadata| metadata.allocate(&*self.storage, count)) {
                Ok(run) if run.count >= count => break Ok(run.first..run.first + run.count),
                Ok(run) => short.push(run.first..run.first + run.count),
                Err(error) => break Err(error),
            }
        };
        let mut metadata = write(&self.metadata);
        for run in short {
            metadata.unallocate(&*self.storage, run);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::qcow2::{Layout, check};
    use crate::testing::MemoryStorage;
    use crate::{DiskImage, Storage};

    #[test]
    fn a_table_that_no_refcount_block_counts_is_refused_before_anything_is_taken() {
        let storage = Arc::new(MemoryStorage::default());
        let layout = Layout { virtual_size: 1 << 20, cluster_bits: 9, refcount_order: 4, version: 3 };
        layout.write(&*storage).unwrap();
        let mut image = Qcow2Image::open(storage.clone(), None, false).unwrap();
        let length = storage.length().unwrap();
        // 255 clusters hold 16320 entries, of which each leads to 32 KiB.
        let largest = 255 * 64 * (32 << 10);
        let error = image.grow_to(largest + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "its clusters are too small for so large a disk");
        assert_eq!((image.size(), storage.length().unwrap()), (1 << 20, length));
        image.grow_to(largest).unwrap();
        drop(image);
        let report = check(&*storage).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
        assert_eq!(Qcow2Image::open(storage, None, false).unwrap().size(), largest);
    }
}
