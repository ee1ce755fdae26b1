//! What every disk image can do, and how a layer is named.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The format of a layer. Recorded when the layer is made or imported, and never guessed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the disk, as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// One layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSpec {
    /// Its file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

/// A disk that can be read and written by several threads at once.
///
/// Offsets and lengths are in bytes and may be unaligned; what reaches past [`DiskImage::size`] is refused and has
/// no effect. The buffers may lie in guest memory that the guest changes meanwhile: an implementation
/// hands them to the kernel, or cuts and fills them with [`vmm_sys::scattered`], and makes no reference to their bytes.
pub trait DiskImage: Send + Sync {
    /// The size of the disk as its user sees it, in bytes.
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Fills the buffers, in order, from `offset` on.
    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()>;

    /// Writes the buffers, in order, from `offset` on.
    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Returns when everything that was written before the call survives a power cut.
    ///
    /// Once the operating system has failed to sync, every later flush fails too: what it lost cannot be told.
    fn flush(&self) -> io::Result<()>;

    /// The range is not needed any more; it may read as anything that it held, or as zeroes.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// The range reads as zeroes afterwards. With `unmap`, its space may be given back.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;

    /// The range is about to be read: what has to be fetched from a slow disk for that may be fetched from now on. A hint,
    /// which costs little and never waits; what reaches past the end is nothing.
    fn will_read(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// The same of a range that is about to be written, which may mean that what lies around it is read.
    fn will_write(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// From `offset` on, the first place that may hold anything but zeroes; the disk's size if there is none. What
    /// copies a disk skips what lies before.
    fn data_from(&self, offset: u64) -> io::Result<u64> {
        Ok(offset.min(self.size()))
    }

    /// What the first of the `length` bytes from `offset` on is, of which there is one at least, and for how many of them
    /// that goes on. The next ones may be the same again.
    fn extent(&self, offset: u64, length: u64) -> io::Result<Extent> {
        let data = self.data_from(offset)?;
        Ok(if data > offset {
            Extent { shown: Shown::Zeroes, length: length.min(data - offset) }
        } else {
            Extent { shown: Shown::Data, length }
        })
    }
}

/// The half of [`DiskImage`] that changes a disk, for one that can only be read. Not as defaults of the trait: what passes
/// everything on to another disk must not forget one of them.
macro_rules! only_read {
    () => {
        fn read_only(&self) -> bool {
            true
        }

        fn write(&self, _: &[std::io::IoSlice<'_>], _: u64) -> std::io::Result<()> {
            $crate::image::check_writable(true)
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn discard(&self, _: u64, _: u64) -> std::io::Result<()> {
            $crate::image::check_writable(true)
        }

        fn write_zeroes(&self, _: u64, _: u64, _: bool) -> std::io::Result<()> {
            $crate::image::check_writable(true)
        }
    };
}

pub(crate) use only_read;

/// What a place of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It may hold anything.
    Data,
    /// Zeroes, whatever lies below the disk's layers.
    Zeroes,
    /// No layer says anything of it: zeroes too, unless there is something below the lowest.
    Nothing,
}

/// A stretch of a disk that is one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it is.
    pub shown: Shown,
    /// How many bytes of it there are.
    pub length: u64,
}

/// Refuses what reaches past the end of a disk.
pub(crate) fn check_bounds(offset: u64, length: u64, size: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes at {offset} reach past the end of the disk ({size} bytes)"),
        )),
    }
}

/// Refuses to change what was opened for reading.
pub(crate) fn check_writable(read_only: bool) -> io::Result<()> {
    if read_only {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the disk is read-only"));
    }
    Ok(())
}
