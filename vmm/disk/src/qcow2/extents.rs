//! What is where, told without reading it. Each layer is asked for no more than the one above leaves open, so that what is
//! told of a whole chain costs as much as there is to tell.

use std::io;

use super::Qcow2Image;
use super::entry::Mapping;
use crate::image::{Extent, Shown};

/// So many extents without data are passed over at once: tables that say little about much would hold us up.
const MOST_EXTENTS: usize = 1 << 16;

impl Qcow2Image {
    /// What lies at `offset` of the disk, and for how much of `length` that goes on.
    pub(super) fn find_extent(&self, offset: u64, length: u64) -> io::Result<Extent> {
        let (mapping, length, _ticket) = self.find(offset, length)?;
        let shown = match (mapping, &self.backing) {
            (Mapping::Data { .. } | Mapping::Compressed(_), _) => Shown::Data,
            (Mapping::Zero { .. }, _) => Shown::Zeroes,
            (Mapping::Unallocated, Some(backing)) if self.is_backed(offset) => {
                return backing.extent(offset, length.min(self.backed_size() - offset));
            }
            // Past the end of the layer below, whatever may lie below that.
            (Mapping::Unallocated, Some(_)) => Shown::Zeroes,
            (Mapping::Unallocated, None) => Shown::Nothing,
        };
        Ok(Extent { shown, length })
    }

    /// The first place from `offset` on that may hold anything but zeroes.
    pub(super) fn find_data(&self, offset: u64) -> io::Result<u64> {
        let mut at = offset;
        for _ in 0..MOST_EXTENTS {
            if at >= self.size {
                return Ok(self.size);
            }
            let extent = self.find_extent(at, self.size - at)?;
            if extent.shown == Shown::Data {
                return Ok(at);
            }
            at += extent.length;
        }
        Ok(at.min(self.size))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, IoSliceMut};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::image::only_read;
    use crate::qcow2::Layout;
    use crate::testing::MemoryStorage;
    use crate::{DiskImage, RawImage};

    const CLUSTER: u64 = 512;

    /// A disk that counts how often it is asked where its data is.
    struct Counted {
        disk: Arc<dyn DiskImage>,
        asked: AtomicU64,
    }

    impl DiskImage for Counted {
        only_read!();

        fn size(&self) -> u64 {
            self.disk.size()
        }

        fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
            self.disk.read(buffers, offset)
        }

        fn extent(&self, offset: u64, length: u64) -> io::Result<Extent> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.disk.extent(offset, length)
        }
    }

    fn overlay(size: u64, below: Option<Arc<dyn DiskImage>>) -> Qcow2Image {
        let storage = Arc::new(MemoryStorage::default());
        let layout = Layout { virtual_size: size, cluster_bits: 9, refcount_order: 4, version: 3 };
        layout.write(&*storage).unwrap();
        Qcow2Image::open(storage, below, false).unwrap()
    }

    fn shown(disk: &dyn DiskImage) -> Vec<(Shown, u64)> {
        let (mut extents, mut at) = (Vec::<(Shown, u64)>::new(), 0);
        while at < disk.size() {
            let extent = disk.extent(at, disk.size() - at).unwrap();
            at += extent.length;
            match extents.last_mut() {
                Some((shown, length)) if *shown == extent.shown => *length += extent.length,
                _ => extents.push((extent.shown, extent.length)),
            }
        }
        extents
    }

    #[test]
    fn each_layer_shows_what_those_above_leave_open() {
        let lower = overlay(8 * CLUSTER, None);
        lower.write(&[IoSlice::new(&[1; 1024])], CLUSTER).unwrap();
        let upper = overlay(12 * CLUSTER, Some(Arc::new(lower)));
        upper.write_zeroes(2 * CLUSTER, CLUSTER, true).unwrap();
        upper.write(&[IoSlice::new(&[2])], 4 * CLUSTER).unwrap();
        let expected = [
            (Shown::Nothing, CLUSTER),
            (Shown::Data, CLUSTER),
            (Shown::Zeroes, CLUSTER),
            (Shown::Nothing, CLUSTER),
            (Shown::Data, CLUSTER),
            (Shown::Nothing, 3 * CLUSTER),
            (Shown::Zeroes, 4 * CLUSTER),
        ];
        assert_eq!(shown(&upper), expected);
        assert_eq!(upper.data_from(0).unwrap(), CLUSTER);
        assert_eq!(upper.data_from(2 * CLUSTER).unwrap(), 4 * CLUSTER);
        assert_eq!(upper.data_from(5 * CLUSTER).unwrap(), 12 * CLUSTER);
    }

    #[test]
    fn a_layer_is_asked_as_often_as_there_is_something_to_tell() {
        let clusters = 4096;
        let size = clusters * CLUSTER;
        let bottom = RawImage::open(Arc::new(MemoryStorage::new(Vec::new())), true).unwrap();
        let bottom = overlay(size, Some(Arc::new(bottom)));
        let counted = Arc::new(Counted { disk: Arc::new(bottom), asked: AtomicU64::new(0) });
        let mut disk: Arc<dyn DiskImage> = counted.clone();
        for _ in 0..4 {
            let layer = overlay(size, Some(disk));
            for cluster in (0..clusters).step_by(2) {
                layer.write_zeroes(cluster * CLUSTER, CLUSTER, true).unwrap();
            }
            disk = Arc::new(layer);
        }
        counted.asked.store(0, Ordering::Relaxed);
        assert_eq!(disk.data_from(0).unwrap(), size);
        let asked = counted.asked.load(Ordering::Relaxed);
        assert!(asked <= clusters, "{asked} times");
    }
}
