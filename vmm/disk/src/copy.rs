//! A disk copied into a qcow2 image of ours, without its zeroes.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use snafu::{ResultExt, ensure};

use crate::DiskImage;
use crate::bytes::{all_zero, index};
use crate::error::{CopyReadSnafu, CopyStoppedSnafu, CopyTooLargeSnafu, Error, PublishSnafu, Qcow2Snafu};
use crate::publish::{FileSystem, HostFileSystem};
use crate::qcow2::{Layout, Qcow2Image};

/// The clusters of our images: what is zero throughout one of them is not stored.
const CLUSTER: usize = 64 << 10;
/// So much is read and written at once.
const CHUNK: u64 = 2 << 20;

/// What a copy made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The size of the disk.
    pub size: u64,
    /// How many bytes of it are stored.
    pub stored: u64,
}

/// Copies a disk into a new qcow2 image, whose bytes follow from those of the disk alone. Its end is filled with zeroes
/// to a whole sector.
///
/// `seen` is told how far it is, and stops the copy with `false`. More than `limit` bytes are not stored: a small
/// image can say that it is very large, and full. Nobody is promised that the file survives a power cut; when it
/// fails, there is no file.
pub fn copy_disk(
    source: &dyn DiskImage,
    destination: &Path,
    limit: u64,
    seen: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Error> {
    let path = destination;
    let storage = HostFileSystem.create(path).context(PublishSnafu { what: "create", path })?;
    let size = source.size().next_multiple_of(512);
    let mut copy = || {
        Layout::new(size).write(&*storage).context(PublishSnafu { what: "write", path })?;
        let image = Qcow2Image::open(Arc::clone(&storage), None, false).context(Qcow2Snafu { path })?;
        let stored = copy_data(source, &image, path, limit, seen)?;
        // The first flush lets go of what was freed, as when an image is closed.
        image.flush().context(PublishSnafu { what: "write", path })?;
        Ok(Copied { size, stored })
    };
    copy().inspect_err(|_| {
        // The error that matters is the first.
        let _ = HostFileSystem.remove(path);
    })
}

fn copy_data(
    source: &dyn DiskImage,
    image: &Qcow2Image,
    path: &Path,
    limit: u64,
    seen: &mut dyn FnMut(u64) -> bool,
) -> Result<u64, Error> {
    let mut buffer = vec![0; index(CHUNK)];
    let (mut at, mut stored) = (0, 0);
    while at < source.size() {
        ensure!(seen(at), CopyStoppedSnafu);
        let data = source.data_from(at).context(CopyReadSnafu { offset: at })?;
        at = data / CHUNK * CHUNK;
        if data >= source.size() {
            break;
        }
        let chunk = &mut buffer[..index((source.size() - at).min(CHUNK))];
        source.read(&mut [IoSliceMut::new(chunk)], at).context(CopyReadSnafu { offset: at })?;
        for (first, last) in runs(chunk) {
            let bytes = &chunk[first..last];
            stored += bytes.len() as u64;
            ensure!(stored <= limit, CopyTooLargeSnafu { limit });
            write(image, bytes, at + first as u64).context(PublishSnafu { what: "write", path })?;
        }
        at += chunk.len() as u64;
    }
    seen(source.size());
    Ok(stored)
}

fn write(image: &Qcow2Image, bytes: &[u8], offset: u64) -> io::Result<()> {
    image.write(&[IoSlice::new(bytes)], offset)
}

/// The runs of clusters that are not all zero.
fn runs(chunk: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (number, cluster) in chunk.chunks(CLUSTER).enumerate() {
        if all_zero(cluster) {
            continue;
        }
        let first = number * CLUSTER;
        match runs.last_mut() {
            Some((_, end)) if *end == first => *end += cluster.len(),
            _ => runs.push((first, first + cluster.len())),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStorage;
    use crate::{Format, LayerSpec, RawImage, check_layer, open_chain};

    fn disk(bytes: Vec<u8>) -> RawImage {
        RawImage::open(Arc::new(MemoryStorage::new(bytes)), true).unwrap()
    }

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 9_000_100];
        bytes[5] = 1;
        bytes[3_000_000..3_200_000].fill(2);
        bytes[9_000_099] = 3;
        bytes
    }

    #[test]
    fn a_copy_shows_the_same_and_stores_no_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.qcow2");
        let bytes = sample();
        let mut last = 0;
        let copied = copy_disk(&disk(bytes.clone()), &path, u64::MAX, &mut |at| {
            last = at;
            true
        });
        let copied = copied.unwrap();
        assert_eq!((copied.size, last), (9_000_448, 9_000_100));
        assert!(copied.stored <= 6 * CLUSTER as u64, "{copied:?}");
        let report = check_layer(&path).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0));
        let image = open_chain(&[LayerSpec { path: path.clone(), format: Format::Qcow2 }], true).unwrap();
        let mut back = vec![9; 9_000_448];
        image.read(&mut [IoSliceMut::new(&mut back)], 0).unwrap();
        assert!(back[..bytes.len()] == bytes && all_zero(&back[bytes.len()..]));
        // And the same again gives the same file.
        let again = folder.path().join("again.qcow2");
        copy_disk(&disk(bytes), &again, u64::MAX, &mut |_| true).unwrap();
        assert!(std::fs::read(path).unwrap() == std::fs::read(again).unwrap());
    }

    #[test]
    fn a_copy_that_is_stopped_or_too_large_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("copy.qcow2");
        let stopped = copy_disk(&disk(sample()), &path, u64::MAX, &mut |_| false);
        assert!(matches!(stopped, Err(Error::CopyStopped)));
        let large = copy_disk(&disk(sample()), &path, 100_000, &mut |_| true);
        assert!(matches!(large, Err(Error::CopyTooLarge { limit: 100_000 })));
        assert!(!path.exists());
    }
}
