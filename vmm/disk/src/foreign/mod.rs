//! Disks as other programs write them, to be read once, for an import: raw, qcow2 with its backing files, VHD, VMDK.
//!
//! Here, and nowhere else, a format is found by content and the names in headers are followed. What comes out is
//! copied into a layer of ours ([`crate::copy_disk`]), and then the file is not needed any more.

mod blocks;
mod chain;
pub(crate) mod numbers;
mod probe;
mod vhd;
mod vmdk;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snafu::{ResultExt, Snafu, ensure};

use crate::{DiskImage, Error, RawImage, Storage};

pub use probe::probe;

/// No disk that is imported is larger: what is, is a mistake or an attack.
pub const LARGEST_FOREIGN_DISK: u64 = 16 << 40;

/// A format of disks that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFormat {
    /// The bytes of the disk, as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Microsoft's virtual hard disk, fixed or dynamic.
    Vhd,
    /// VMware's disk, in one file.
    Vmdk,
}

/// A foreign disk, open for reading.
#[derive(Clone)]
pub struct ForeignDisk {
    /// The disk.
    pub disk: Arc<dyn DiskImage>,
    /// The format of the file that was named.
    pub format: ForeignFormat,
    /// The files that it is made of, the named one first.
    pub files: Vec<PathBuf>,
}

/// Why a foreign disk is not read.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ForeignError {
    #[snafu(display("reading it failed"))]
    ReadForeign { source: io::Error },
    #[snafu(display("the file is empty"))]
    Empty,
    #[snafu(display("it is {what}, which is not read: convert it to qcow2 or raw"))]
    Unsupported { what: String },
    #[snafu(display("the {format} is damaged: {what}"))]
    Damaged { format: ForeignFormat, what: &'static str },
    #[snafu(display("a disk of {size} bytes is larger than the 16 TiB that are imported"))]
    Huge { size: u64 },
    #[snafu(display("it builds on {name:?}: {why}"))]
    Backing { name: String, why: &'static str },
    #[snafu(display("it builds on {name:?}, which cannot be opened"))]
    OpenBacking { name: String, source: io::Error },
}

/// Opens a foreign disk for reading.
///
/// A qcow2 image may build on others, raw or qcow2, which lie in the named file's folder or beneath it; no link is
/// followed to them.
pub fn open_foreign(path: &Path) -> Result<ForeignDisk, Error> {
    chain::open_named(path)
}

/// Opens a disk that is all in one storage.
pub fn open_foreign_storage(
    storage: Arc<dyn Storage>,
    format: ForeignFormat,
) -> Result<Arc<dyn DiskImage>, ForeignError> {
    let disk: Arc<dyn DiskImage> = match format {
        ForeignFormat::Raw => Arc::new(RawImage::open(storage, true).context(ReadForeignSnafu)?),
        ForeignFormat::Vhd => vhd::open(storage)?,
        ForeignFormat::Vmdk => vmdk::open(storage)?,
        // It may build on others, and has its own errors.
        ForeignFormat::Qcow2 => return UnsupportedSnafu { what: "a qcow2 image" }.fail(),
    };
    check_size(disk.size())?;
    Ok(disk)
}

fn check_size(size: u64) -> Result<(), ForeignError> {
    ensure!(size > 0, EmptySnafu);
    ensure!(size <= LARGEST_FOREIGN_DISK, HugeSnafu { size });
    Ok(())
}

impl fmt::Display for ForeignFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "VHD",
            Self::Vmdk => "VMDK",
        })
    }
}

impl fmt::Debug for ForeignDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ForeignDisk")
            .field("format", &self.format)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
