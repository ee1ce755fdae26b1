//! What is done to an artifact before an image can use it. Each transform is a function of bytes to bytes.

use std::fs;
use std::path::Path;

use snafu::ResultExt;

use super::error::{KernelSnafu, Result, StorageSnafu};
use super::files;
use crate::arch::Arch;
use crate::boot::Kernel;

/// A step of the way from what is fetched to what is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    /// Takes the kernel that an engine loads out of the file that distributions ship.
    UnpackKernel(Arch),
}

/// A kernel file as distributions ship it is smaller.
pub(super) const LARGEST_KERNEL_FILE: u64 = 256 << 20;

impl Transform {
    /// Makes the new file `to` from `from`. `image` is what it is for.
    pub(super) fn apply(self, from: &Path, to: &Path, image: &str) -> Result<()> {
        match self {
            Self::UnpackKernel(arch) => {
                let packed = files::read(from, LARGEST_KERNEL_FILE)?.unwrap_or_default();
                let kernel = Kernel::from_file_contents(&packed, arch).context(KernelSnafu { image })?;
                files::write_new(to, kernel.bytes())
            }
        }
    }
}

/// Brings an artifact through all its transforms, from `from` to `to`. Both are on one file system.
pub(super) fn apply_all(transforms: &[Transform], from: &Path, to: &Path, image: &str) -> Result<()> {
    let mut current = from.to_owned();
    for (index, transform) in transforms.iter().enumerate() {
        let next = from.with_extension(format!("step-{index}"));
        transform.apply(&current, &next, image)?;
        fs::remove_file(&current).context(StorageSnafu { action: "remove", path: &current })?;
        current = next;
    }
    files::rename(&current, to)
}
