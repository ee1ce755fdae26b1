//! What is done to an artifact before an image can use it. Each transform makes a new file from a file, always the same
//! from the same, and no larger one than it is allowed: what is packed may be a bomb.
//!
//! After the last, the file is renamed to where it belongs.

pub(super) mod archive;
mod sparse;
pub(super) mod tar;

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use snafu::{ResultExt, ensure};
use vmm_disk::{Copied, DiskImage, copy_disk, open_foreign};

use super::error::{
    CancelledSnafu, DecompressSnafu, DiskSnafu, KernelSnafu, Result, StorageSnafu, TooLargeSnafu,
};
use super::files;
use super::progress::{Progress, Stage, Step};
use crate::arch::Arch;
use crate::boot::{Compression, Kernel};

/// A step of the way from what is fetched to what is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Takes the kernel that an engine loads out of the file that distributions ship.
    UnpackKernel(Arch),
    /// Decompresses the whole file.
    Decompress(Compression),
    /// Takes the file of this name out of an archive, tar or zip.
    Member(&'static str),
    /// Makes a qcow2 image of a disk in any format that can be imported.
    Convert,
}

/// How much a transform may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The longest file, holes included.
    pub(super) length: u64,
    /// The most that is stored of it.
    pub(super) stored: u64,
}

impl Bounds {
    /// Between two steps nothing is pinned; no artifact of the catalog is larger.
    const BETWEEN: Self = Self { length: 64 << 30, stored: 64 << 30 };
}

/// What a transform is told: for whom it works, whom it tells how far it is, and what it may make.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    /// The image, or what becomes one.
    pub(super) image: &'a str,
    pub(super) progress: &'a dyn Progress,
    pub(super) bounds: Bounds,
}

/// A kernel file as distributions ship it is smaller.
pub(super) const LARGEST_KERNEL_FILE: u64 = 256 << 20;

impl Transform {
    /// Makes the new file `to` from `from`.
    pub(super) fn apply(self, from: &Path, to: &Path, job: Job<'_>) -> Result<()> {
        match self {
            Self::UnpackKernel(arch) => {
                let packed = files::read(from, LARGEST_KERNEL_FILE)?.unwrap_or_default();
                let kernel = Kernel::from_file_contents(&packed, arch);
                files::write_new(to, kernel.context(KernelSnafu { image: job.image })?.bytes())
            }
            Self::Decompress(compression) => decompress(compression, from, to, job),
            Self::Member(name) => archive::extract(from, name, to, job),
            Self::Convert => {
                let disk = open_foreign(from).map_err(Into::into).context(DiskSnafu { path: from })?;
                convert(&*disk.disk, to, job).map(drop)
            }
        }
    }
}

/// Brings an artifact through all its transforms, from `from` to `to`, which is `size` bytes long. Both are on one file
/// system.
pub(super) fn apply_all(
    transforms: &[Transform],
    from: &Path,
    to: &Path,
    size: u64,
    (image, progress): (&str, &dyn Progress),
) -> Result<()> {
    let mut current = from.to_owned();
    for (index, transform) in transforms.iter().enumerate() {
        let next = from.with_extension(format!("step-{index}"));
        let last = index + 1 == transforms.len();
        let bounds = if last { Bounds { length: size, stored: size } } else { Bounds::BETWEEN };
        transform.apply(&current, &next, Job { image, progress, bounds })?;
        fs::remove_file(&current).context(StorageSnafu { action: "remove", path: &current })?;
        current = next;
    }
    files::rename(&current, to)
}

/// Decompresses a whole file. Runs of zeroes become holes.
pub(super) fn decompress(compression: Compression, from: &Path, to: &Path, job: Job<'_>) -> Result<()> {
    let packed = File::open(from).context(StorageSnafu { action: "open", path: from })?;
    let reader = compression.reader(BufReader::with_capacity(256 << 10, packed));
    let what = from.display().to_string();
    job.write(reader, to, &what, None)?.context(DecompressSnafu { what })
}

/// Makes a qcow2 image of a disk. Runs of zeroes are not stored.
pub(super) fn convert(disk: &dyn DiskImage, to: &Path, job: Job<'_>) -> Result<Copied> {
    let total = disk.size();
    let mut seen =
        |done| job.goes_on(&to.file_name().unwrap_or_default().to_string_lossy(), done, Some(total));
    match copy_disk(disk, to, job.bounds.stored, &mut seen) {
        Err(vmm_disk::Error::CopyStopped) => CancelledSnafu { image: job.image }.fail(),
        copied => copied.map_err(Into::into).context(DiskSnafu { path: to }),
    }
}

impl Job<'_> {
    /// Tells how far it is; false if it should give up.
    fn goes_on(&self, subject: &str, done: u64, total: Option<u64>) -> bool {
        self.progress.step(Step { stage: Stage::Unpacking, subject, done, total });
        !self.progress.cancelled()
    }

    /// Writes what a reader gives into a new file, within the bounds. The inner error is the reader's.
    pub(super) fn write(
        &self,
        mut reader: impl Read,
        to: &Path,
        what: &str,
        total: Option<u64>,
    ) -> Result<std::io::Result<()>> {
        let mut writer = sparse::SparseWriter::create(to)?;
        let result = self.fill(&mut reader, &mut writer, what, total);
        match result {
            Ok(Ok(())) => writer.finish().map(Ok),
            other => {
                // The first error is the one to tell.
                let _ = files::remove_file(to);
                other
            }
        }
    }

    fn fill(
        &self,
        reader: &mut impl Read,
        writer: &mut sparse::SparseWriter,
        what: &str,
        total: Option<u64>,
    ) -> Result<std::io::Result<()>> {
        let Bounds { length, stored } = self.bounds;
        loop {
            let more = match writer.take_from(reader) {
                Ok(more) => more?,
                Err(error) => return Ok(Err(error)),
            };
            ensure!(writer.length() <= length, TooLargeSnafu { what, limit: length });
            ensure!(writer.stored() <= stored, TooLargeSnafu { what, limit: stored });
            ensure!(self.goes_on(what, writer.length(), total), CancelledSnafu { image: self.image });
            if !more {
                return Ok(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
