//! A raw image: the bytes of the disk, as they are.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys::scattered;

use crate::Storage;
use crate::image::{DiskImage, check_bounds, check_writable};

/// A raw image. Its size is the length that its storage had when it was opened.
#[derive(Debug)]
pub struct RawImage {
    storage: Arc<dyn Storage>,
    size: u64,
    read_only: bool,
    sync_failed: AtomicBool,
}

impl RawImage {
    /// Opens the storage as it is.
    pub fn open(storage: Arc<dyn Storage>, read_only: bool) -> io::Result<Self> {
        let size = storage.length()?;
        Ok(Self { storage, size, read_only, sync_failed: AtomicBool::new(false) })
    }
}

impl DiskImage for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        check_bounds(offset, scattered::length_mut(buffers), self.size)?;
        self.storage.read(buffers, offset)
    }

    fn will_read(&self, offset: u64, length: u64) {
        self.storage.will_read(offset, length);
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        Ok(self.storage.data_from(offset)?.min(self.size))
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_bounds(offset, scattered::length(buffers), self.size)?;
        self.storage.write(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this disk failed"));
        }
        self.storage.sync().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        check_writable(self.read_only)?;
        check_bounds(offset, length, self.size)?;
        self.storage.write_zeroes(offset, length, unmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStorage;

    #[test]
    fn what_reaches_past_the_end_is_refused_and_has_no_effect() {
        let storage = Arc::new(MemoryStorage::new(vec![5; 1000]));
        let image = RawImage::open(storage.clone(), false).unwrap();
        for (offset, length) in [(1000, 1), (999, 2), (u64::MAX, 1), (0, 1001)] {
            assert!(image.write(&[IoSlice::new(&vec![0; length])], offset).is_err());
            assert!(image.write_zeroes(offset, length as u64, false).is_err());
            assert!(image.discard(offset, length as u64).is_err());
            assert!(image.read(&mut [IoSliceMut::new(&mut vec![0; length])], offset).is_err());
        }
        assert_eq!(storage.bytes(), vec![5; 1000]);
    }

    #[test]
    fn a_read_only_image_is_not_written() {
        let image = RawImage::open(Arc::new(MemoryStorage::new(vec![5; 1000])), true).unwrap();
        assert_eq!(
            image.write(&[IoSlice::new(b"x")], 0).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert!(image.discard(0, 1).is_err());
        assert!(image.write_zeroes(0, 1, true).is_err());
        image.flush().unwrap();
    }

    #[test]
    fn after_a_failed_sync_every_flush_fails() {
        let storage = Arc::new(MemoryStorage::new(vec![5; 1000]));
        let image = RawImage::open(storage.clone(), false).unwrap();
        storage.fail_next_sync();
        assert!(image.flush().is_err());
        assert!(image.flush().is_err());
    }
}
