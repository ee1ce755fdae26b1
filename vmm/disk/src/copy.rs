//! A disk, or some layers of one, written into a new qcow2 image without what is zero.

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use snafu::{ResultExt, ensure};

use crate::DiskImage;
use crate::bytes::{all_zero, index};
use crate::error::{CopyReadSnafu, CopyStoppedSnafu, CopyTooLargeSnafu, Error, PublishSnafu, Qcow2Snafu};
use crate::image::{Extent, Shown, only_read};
use crate::publish::{FileSystem, HostFileSystem};
use crate::qcow2::{Layout, Qcow2Image};

/// So much is read and written at once.
const CHUNK: u64 = 2 << 20;
/// What is zero throughout so much is left a hole, even where the rest of its cluster is stored.
const GRAIN: usize = 4096;

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
    let layout = Layout::new(source.size().next_multiple_of(512));
    Copy { source, layers: source, layout, marked: 0, limit }.write_to(destination, seen)
}

/// What is copied, and how.
pub(crate) struct Copy<'a> {
    /// What the disk shows.
    pub(crate) source: &'a dyn DiskImage,
    /// The layers of it that are copied: what they say nothing of is left out.
    pub(crate) layers: &'a dyn DiskImage,
    /// What the new image is.
    pub(crate) layout: Layout,
    /// Before here something may show through the new image, so that it must say of zeroes that they are.
    pub(crate) marked: u64,
    /// More bytes are not stored.
    pub(crate) limit: u64,
}

impl Copy<'_> {
    /// Makes the file. When it fails, there is none.
    pub(crate) fn write_to(
        &self,
        destination: &Path,
        seen: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Copied, Error> {
        let path = destination;
        let storage = HostFileSystem.create(path).context(PublishSnafu { what: "create", path })?;
        let mut copy = || {
            self.layout.write(&*storage).context(PublishSnafu { what: "write", path })?;
            let below: Option<Arc<dyn DiskImage>> =
                if self.marked > 0 { Some(Arc::new(Zeroes(self.marked))) } else { None };
            let image = Qcow2Image::open(Arc::clone(&storage), below, false).context(Qcow2Snafu { path })?;
            let stored = self.copy_extents(&image, path, seen)?;
            // The first flush lets go of what was freed, as when an image is closed.
            image.flush().context(PublishSnafu { what: "write", path })?;
            Ok(Copied { size: self.layout.virtual_size, stored })
        };
        copy().inspect_err(|_| {
            // The error that matters is the first.
            let _ = HostFileSystem.remove(path);
        })
    }

    fn copy_extents(
        &self,
        image: &Qcow2Image,
        path: &Path,
        seen: &mut dyn FnMut(u64) -> bool,
    ) -> Result<u64, Error> {
        let cluster = 1 << self.layout.cluster_bits;
        let (size, mut at, mut stored) = (self.source.size(), 0, 0);
        let mut buffer = vec![0; index(CHUNK)];
        while at < size {
            ensure!(seen(at), CopyStoppedSnafu);
            let Extent { shown, length } =
                self.layers.extent(at, size - at).context(CopyReadSnafu { offset: at })?;
            // Whole clusters of the new image; what is left of the disk is one, too.
            let whole = if at + length == size { length } else { length / cluster * cluster };
            if shown == Shown::Data || whole == 0 {
                let length = length.next_multiple_of(cluster).min(CHUNK).min(size - at);
                stored += self.copy_data(image, path, at, &mut buffer[..index(length)], stored)?;
                at += length;
                continue;
            }
            if shown == Shown::Zeroes {
                image.write_zeroes(at, whole, true).context(PublishSnafu { what: "write", path })?;
            }
            at += whole;
        }
        seen(size);
        Ok(stored)
    }

    /// Copies what the disk shows from `at` on, as much as the buffer holds. Returns how much of it was stored.
    fn copy_data(
        &self,
        image: &Qcow2Image,
        path: &Path,
        at: u64,
        buffer: &mut [u8],
        stored: u64,
    ) -> Result<u64, Error> {
        self.source.read(&mut [IoSliceMut::new(buffer)], at).context(CopyReadSnafu { offset: at })?;
        let cluster = 1 << self.layout.cluster_bits;
        let mut more = 0;
        for (number, bytes) in buffer.chunks(cluster).enumerate() {
            let offset = at + (number * cluster) as u64;
            if all_zero(bytes) {
                image.write_zeroes(offset, bytes.len() as u64, true)
            } else {
                more += bytes.len() as u64;
                ensure!(stored + more <= self.limit, CopyTooLargeSnafu { limit: self.limit });
                let mut runs = runs(bytes).into_iter();
                runs.try_for_each(|(first, last)| {
                    image.write(&[IoSlice::new(&bytes[first..last])], offset + first as u64)
                })
            }
            .context(PublishSnafu { what: "write", path })?;
        }
        Ok(more)
    }
}

/// The runs of a cluster that are not zero.
fn runs(cluster: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (number, grain) in cluster.chunks(GRAIN).enumerate() {
        if all_zero(grain) {
            continue;
        }
        let first = number * GRAIN;
        match runs.last_mut() {
            Some((_, end)) if *end == first => *end += grain.len(),
            _ => runs.push((first, first + grain.len())),
        }
    }
    runs
}

/// A disk of zeroes, which stands for what will lie below an image: so that the image says of its own zeroes that they
/// are, and has nothing to fill the rest of a cluster with.
struct Zeroes(u64);

impl DiskImage for Zeroes {
    only_read!();

    fn size(&self) -> u64 {
        self.0
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], _: u64) -> io::Result<()> {
        vmm_sys::scattered::zero(buffers);
        Ok(())
    }
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
        assert!(copied.stored <= 6 * 65536, "{copied:?}");
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
