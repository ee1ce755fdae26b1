//! The root file system of an image, read on the host, without mounting it.

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read, FileType};
use snafu::{ResultExt, ensure};
use vmm_disk::{DiskImage, LayerSpec, Partition, open_chain, partitions};

use super::error::{
    DecompressSnafu, DiskSnafu, Result, RootContentsSnafu, RootFileSystemSnafu, TooLargeSnafu,
};
use crate::boot::Compression;

/// The first disk, as the guest names it. The number of a partition comes behind it.
pub(super) const DISK: &str = "/dev/vda";

/// No file system has more block groups, of which each has a record in memory: 128 TiB in groups of the usual size.
const MOST_GROUPS: u64 = 1 << 20;

/// No file system has larger blocks than 64 KiB (Documentation/filesystems/ext4/blocks.rst), of which the loader keeps several
/// in memory. As a superblock has it: by so many powers of two larger than 1 KiB.
const LARGEST_BLOCK: u64 = 6;

/// The ext4 file system on a disk, or on one of its partitions.
pub(super) struct RootFileSystem {
    ext4: Ext4,
    /// The disk, for messages.
    disk: PathBuf,
}

impl RootFileSystem {
    /// Opens the one on a disk of these layers, from the base up, that the guest finds at `device`. Names of other files
    /// in their headers are not followed.
    pub(super) fn open(layers: &[LayerSpec], device: &str) -> Result<Self> {
        let path = layers.last().map(|layer| layer.path.as_path()).unwrap_or(Path::new(""));
        let disk = open_chain(layers, true).map_err(Into::into).context(DiskSnafu { path })?;
        let number = device.strip_prefix(DISK).and_then(|number| match number {
            "" => Some(None),
            number => number.parse::<u32>().ok().map(Some),
        });
        let what = || format!("its root on {device}, which is no part of the first disk");
        let Some(number) = number else { return RootContentsSnafu { path, what: what() }.fail() };
        let Some(number) = number else { return Self::on(disk, None, path) };
        let table = partitions(&*disk).map_err(Into::into).context(DiskSnafu { path })?;
        let partition = table.partitions().iter().find(|partition| partition.number == number);
        match partition {
            Some(partition) => Self::on(Arc::clone(&disk), Some(partition), path),
            None => RootContentsSnafu { path, what: what() }.fail(),
        }
    }

    /// Opens the one on a disk or a partition of it. `path` is for messages.
    pub(super) fn on(disk: Arc<dyn DiskImage>, partition: Option<&Partition>, path: &Path) -> Result<Self> {
        let (start, length) = partition.map_or((0, disk.size()), |found| (found.start, found.length));
        let mut reader = PartReader { disk, start, length };
        let mut superblock = [0; 1024];
        // What cannot be read, the loader tells of.
        let bounded = reader.read(1024, &mut superblock).is_err() || has_sane_sizes(&superblock);
        let what = "a superblock with impossible blocks or block groups";
        ensure!(bounded, RootContentsSnafu { path, what });
        let ext4 =
            Ext4::load(Box::new(reader)).context(RootFileSystemSnafu { path, inside: "the superblock" })?;
        Ok(Self { ext4, disk: path.to_owned() })
    }

    /// A whole file, unpacked if its name says that it is packed. Neither form may be larger than `limit`.
    pub(super) fn read(&self, inside: &str, limit: u64) -> Result<Vec<u8>> {
        let context = || RootFileSystemSnafu { path: &self.disk, inside };
        let mut file = self.ext4.open(inside).with_context(|_| context())?;
        let length = file.metadata().len();
        let too_large =
            || TooLargeSnafu { what: format!("{inside} in {}", self.disk.display()), limit }.fail();
        if length > limit {
            return too_large();
        }
        let mut contents = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = file.read_bytes(&mut buffer).with_context(|_| context())?;
            contents.extend_from_slice(&buffer[..count]);
            if contents.len() as u64 > limit {
                return too_large();
            }
            if count == 0 {
                break;
            }
        }
        unpack(inside, contents, limit)
    }

    /// Whether there is something of this name.
    pub(super) fn has(&self, inside: &str) -> Result<bool> {
        self.ext4.exists(inside).context(RootFileSystemSnafu { path: &self.disk, inside })
    }

    /// The names of the files in a folder, without links and folders; none if it is not there. No more than `most`.
    pub(super) fn files_in(&self, folder: &str, most: usize) -> Result<Vec<String>> {
        self.names_in(folder, most, |kind| kind.is_regular_file())
    }

    /// The names of the folders in a folder.
    pub(super) fn folders_in(&self, folder: &str, most: usize) -> Result<Vec<String>> {
        self.names_in(folder, most, |kind| kind.is_dir())
    }

    fn names_in(&self, folder: &str, most: usize, wanted: impl Fn(FileType) -> bool) -> Result<Vec<String>> {
        let context = || RootFileSystemSnafu { path: &self.disk, inside: folder };
        if !self.has(folder)? {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in self.ext4.read_dir(folder).with_context(|_| context())?.take(most) {
            let entry = entry.with_context(|_| context())?;
            let name = entry.file_name().as_str().map(str::to_owned);
            if let (Ok(name), true) = (name, wanted(entry.file_type().with_context(|_| context())?)) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Whether a superblock's blocks are no larger and its block groups no more than can be loaded. What is none is not judged
/// here.
fn has_sane_sizes(superblock: &[u8; 1024]) -> bool {
    let field = |at: usize| {
        let bytes = [superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    if superblock[0x38..0x3a] != [0x53, 0xef] {
        return true;
    }
    // Documentation/filesystems/ext4/super.rst. The loader reads the upper half even without the feature 64BIT.
    let (blocks, in_group) = (field(0x04) | field(0x150) << 32, field(0x20));
    field(0x18) <= LARGEST_BLOCK && in_group != 0 && blocks.div_ceil(in_group) <= MOST_GROUPS
}

/// A disk or a part of it, as the reader of file systems wants it.
struct PartReader {
    disk: Arc<dyn DiskImage>,
    start: u64,
    length: u64,
}

impl Ext4Read for PartReader {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let end = start_byte.checked_add(dst.len() as u64).filter(|end| *end <= self.length);
        end.ok_or("the file system is larger than its partition")?;
        Ok(self.disk.read(&mut [IoSliceMut::new(dst)], self.start + start_byte)?)
    }
}

/// What a file holds, unpacked if its name says that it is packed.
pub(super) fn unpack(name: &str, contents: Vec<u8>, limit: u64) -> Result<Vec<u8>> {
    let packed = matches!(name.rsplit('.').next(), Some("gz" | "xz" | "zst"));
    match Compression::of(&contents).filter(|_| packed) {
        Some(compression) => compression.unpack(&contents, limit).context(DecompressSnafu { what: name }),
        None => Ok(contents),
    }
}

#[cfg(test)]
mod tests {
    use vmm_disk::Format;

    use super::*;

    #[test]
    fn a_superblock_with_too_many_groups_or_too_large_blocks_is_refused_before_it_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let good = super::super::testing::root_file_system();
        let open = |changes: &[(usize, [u8; 4])]| {
            let mut bytes = good.clone();
            for (at, field) in changes {
                bytes[1024 + at..1028 + at].copy_from_slice(field);
            }
            std::fs::write(&path, bytes).unwrap();
            let disk = open_chain(&[LayerSpec { path: path.clone(), format: Format::Raw }], true).unwrap();
            RootFileSystem::on(disk, None, &path).map(drop)
        };
        open(&[]).unwrap();
        let groups =
            [&[(0x20, [0; 4])][..], &[(0x04, [0xff; 4]), (0x20, [1, 0, 0, 0])], &[(0x150, [0xff; 4])]];
        // 128 KiB, 256 MiB, and what no number holds.
        let blocks = [[7, 0, 0, 0], [18, 0, 0, 0], [54, 0, 0, 0], [0xff; 4]].map(|size| [(0x18, size)]);
        for changes in groups.into_iter().chain(blocks.iter().map(|changes| &changes[..])) {
            let error = open(changes).unwrap_err().to_string();
            assert!(error.contains("impossible blocks or block groups"), "{error}");
        }
    }
}
