//! Fetching ahead: what the requests that wait will need from the host's disk, so that it works on all of them at once.

use super::Qcow2Image;
use super::entry::Mapping;

impl Qcow2Image {
    /// What a read of the range needs. Where the tables must be read to know that, the read itself will find out.
    pub(super) fn fetch_ahead(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        let mut at = offset;
        while at < end {
            // What cannot be right is for the request itself to tell.
            let Ok(Some((mapping, covered, _ticket))) = self.find_in_memory(at, end - at) else { return };
            self.fetch_run_ahead(mapping, at, covered);
            at += covered;
        }
    }

    /// What a write of the range needs: the rest of the clusters that it copies.
    pub(super) fn fetch_around_ahead(&self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.size);
        if offset >= end {
            return;
        }
        let (first, last) = (self.geometry.cluster(offset), self.geometry.cluster(end - 1));
        self.fetch_rest_ahead(first, offset, end);
        if last > first {
            self.fetch_rest_ahead(last, offset, end);
        }
    }

    /// A cluster, unless the write from `offset` to `end` leaves nothing of it or goes to where it is.
    fn fetch_rest_ahead(&self, cluster: u64, offset: u64, end: u64) {
        let start = self.geometry.offset(cluster);
        let length = self.geometry.cluster_size().min(self.size - start);
        let is_replaced = offset <= start && start + length <= end;
        if is_replaced {
            return;
        }
        if let Ok(Some((mapping, covered, _ticket))) = self.find_in_memory(start, length)
            && !matches!(mapping, Mapping::Data { copied: true, .. })
        {
            self.fetch_run_ahead(mapping, start, covered);
        }
    }

    fn fetch_run_ahead(&self, mapping: Mapping, offset: u64, length: u64) {
        match mapping {
            Mapping::Data { host, .. } => {
                let within = offset & (self.geometry.cluster_size() - 1);
                self.storage.will_read(host + within, length);
            }
            Mapping::Compressed(compressed) => self.storage.will_read(compressed.offset, compressed.length),
            Mapping::Unallocated => {
                if let Some(backing) = self.backing.as_ref().filter(|_| self.is_backed(offset)) {
                    backing.will_read(offset, length.min(self.backed_size() - offset));
                }
            }
            Mapping::Zero { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice, IoSliceMut};
    use std::sync::{Arc, Mutex};

    use crate::image::{DiskImage, only_read};
    use crate::qcow2::{Layout, Qcow2Image};
    use crate::testing::MemoryStorage;

    const CLUSTER: u64 = 65536;
    const SIZE: u64 = 8 * CLUSTER;

    /// A layer below that notes what is asked for ahead.
    struct Noting(Mutex<Vec<(u64, u64)>>);

    impl DiskImage for Noting {
        only_read!();

        fn size(&self) -> u64 {
            SIZE - CLUSTER / 2
        }

        fn read(&self, buffers: &mut [IoSliceMut<'_>], _offset: u64) -> io::Result<()> {
            buffers.iter_mut().for_each(|buffer| buffer.fill(7));
            Ok(())
        }

        fn will_read(&self, offset: u64, length: u64) {
            self.0.lock().unwrap().push((offset, length));
        }
    }

    fn image() -> (Arc<Noting>, Qcow2Image) {
        let storage = Arc::new(MemoryStorage::default());
        Layout::new(SIZE).write(&*storage).unwrap();
        let below = Arc::new(Noting(Mutex::default()));
        (below.clone(), Qcow2Image::open(storage, Some(below), false).unwrap())
    }

    #[test]
    fn a_read_asks_for_what_only_the_layer_below_has() {
        let (below, image) = image();
        image.write(&[IoSlice::new(&[1; 4096])], CLUSTER).unwrap();
        image.will_read(0, 3 * CLUSTER);
        image.will_read(SIZE - CLUSTER, 10 * CLUSTER);
        image.will_read(u64::MAX, u64::MAX);
        let asked = below.0.lock().unwrap().clone();
        assert_eq!(asked, [(0, CLUSTER), (2 * CLUSTER, CLUSTER), (SIZE - CLUSTER, CLUSTER / 2)]);
    }

    #[test]
    fn a_write_asks_for_the_clusters_of_which_it_leaves_something() {
        let (below, image) = image();
        image.write(&[IoSlice::new(&[1; 4096])], CLUSTER).unwrap();
        image.will_write(100, 200);
        image.will_write(CLUSTER, 4096);
        image.will_write(2 * CLUSTER, CLUSTER);
        image.will_write(2 * CLUSTER + 1, 2 * CLUSTER);
        let asked = below.0.lock().unwrap().clone();
        assert_eq!(asked, [(0, CLUSTER), (2 * CLUSTER, CLUSTER), (4 * CLUSTER, CLUSTER)]);
    }
}
