//! A disk that is some bytes in memory, which fails when it is told to.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use vmm_disk::DiskImage;

/// A disk in memory.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
    fails: AtomicBool,
    flushes: AtomicU64,
}

impl MemoryDisk {
    /// A disk with these contents.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes), ..Self::default() }
    }

    /// A disk that refuses writes.
    pub fn read_only(bytes: Vec<u8>) -> Self {
        Self { read_only: true, ..Self::new(bytes) }
    }

    /// What is on the disk.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// From now on everything fails, or nothing does.
    pub fn set_failing(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no test failed while it held the disk")
    }

    /// The part of the disk; an error where the device should not have asked.
    fn part(
        &self,
        offset: u64,
        length: u64,
        write: bool,
    ) -> io::Result<(MutexGuard<'_, Vec<u8>>, usize, usize)> {
        assert!(!(write && self.read_only), "the device wrote to a read-only disk");
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let bytes = self.lock();
        let end = offset.checked_add(length).filter(|&end| end <= bytes.len() as u64);
        let end = end.expect("the device asked for what is past the end of the disk");
        Ok((bytes, usize::try_from(offset).unwrap(), usize::try_from(end).unwrap()))
    }
}

impl DiskImage for MemoryDisk {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let (bytes, start, end) = self.part(offset, length as u64, false)?;
        let read = (&bytes[start..end]).read_vectored(buffers)?;
        assert_eq!(read, length);
        Ok(())
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let (mut bytes, start, end) = self.part(offset, length as u64, true)?;
        let written = (&mut bytes[start..end]).write_vectored(buffers)?;
        assert_eq!(written, length);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        drop(self.part(0, 0, false)?);
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let (mut bytes, start, end) = self.part(offset, length, true)?;
        // It may read as anything: a driver that counted on zeroes or on the old bytes would notice.
        bytes[start..end].fill(0xdd);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        let (mut bytes, start, end) = self.part(offset, length, true)?;
        bytes[start..end].fill(0);
        Ok(())
    }
}
