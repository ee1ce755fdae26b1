//! What an import does with a stranger's bytes, for the fuzz targets outside this package.

use std::path::Path;
use std::sync::Arc;

use vmm_disk::DiskImage;

use super::import;
use super::transform::archive;
use super::transform::{self, Bounds, Job};
use crate::boot::Compression;

/// No file that is unpacked here becomes longer.
pub const LONGEST: u64 = 1 << 20;

/// A root file system, packed with gzip: a seed to change.
pub const ROOT: &[u8] = include_bytes!("fixtures/root.ext4.gz");

/// Finds the system on a disk, and looks for kernels in it. True: there is one.
pub fn find_system(disk: &Arc<dyn DiskImage>) -> bool {
    import::look_around(disk)
}

/// Takes every file out of an archive, one after the other, to `to`, or unpacks a compressed file there.
pub fn unpack(from: &Path, to: &Path) {
    let job = Job { image: "fuzz", progress: &(), bounds: Bounds { length: LONGEST, stored: LONGEST } };
    let first = std::fs::read(from).unwrap_or_default();
    if let Some(compression) = Compression::of(&first) {
        let _ = transform::decompress(compression, from, to, job);
        check(to);
        return;
    }
    import::list_initial_files(from);
    for name in archive::names(from).unwrap_or_default().iter().take(16) {
        let _ = archive::extract(from, name, to, job);
        check(to);
    }
}

/// What was made is no longer than was allowed, and makes room for the next.
fn check(to: &Path) {
    if let Ok(made) = std::fs::metadata(to) {
        assert!(made.len() <= LONGEST, "{} bytes were made", made.len());
        let _ = std::fs::remove_file(to);
    }
}
