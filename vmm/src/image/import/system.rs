//! The system on a disk: which partition is its root, and what it calls itself.

use std::io::IoSliceMut;
use std::path::Path;
use std::sync::Arc;

use snafu::ResultExt;
use vmm_disk::{DiskImage, Partition, PartitionTable, partitions};

use super::super::error::{DiskSnafu, ImportPartitionsSnafu, ImportSnafu, Result};
use super::super::root::RootFileSystem;

/// What is read of a system's own description of itself.
const LARGEST_RELEASE: u64 = 64 << 10;

/// A system.
pub(super) struct System {
    pub(super) table: PartitionTable,
    /// Where its root is; none: the whole disk.
    pub(super) partition: Option<Partition>,
    pub(super) root: RootFileSystem,
    /// Other file systems on the disk: one of them may hold the kernels.
    pub(super) others: Vec<RootFileSystem>,
    pub(super) release: Release,
}

/// What a system calls itself (os-release(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) name: String,
    pub(super) version: [u32; 3],
}

/// Finds the root file system on a disk. `path` is for messages.
pub(super) fn find(disk: &Arc<dyn DiskImage>, path: &Path) -> Result<System> {
    let table = partitions(&**disk).context(ImportPartitionsSnafu { path })?;
    let places: Vec<Option<Partition>> = match table.partitions() {
        [] => vec![None],
        partitions => partitions.iter().copied().map(Some).collect(),
    };
    let mut best: Option<(Rank, Option<Partition>, RootFileSystem)> = None;
    let (mut others, mut seen) = (Vec::new(), Vec::new());
    for partition in places {
        let kind = kind_of(&**disk, partition.as_ref(), path)?;
        seen.push((partition, kind));
        if kind != Some(EXT) {
            continue;
        }
        let found = RootFileSystem::on(Arc::clone(disk), partition.as_ref(), path)?;
        let Some(rank) = rank(&found, partition.as_ref())? else {
            others.push(found);
            continue;
        };
        if best.as_ref().is_none_or(|(other, ..)| rank > *other) {
            others.extend(best.take().map(|(_, _, root)| root));
            best = Some((rank, partition, found));
        } else {
            others.push(found);
        }
    }
    let Some((_, partition, root)) = best else {
        return ImportSnafu { path, why: explain(&seen) }.fail();
    };
    let release = release(&root)?;
    Ok(System { table, partition, root, others, release })
}

/// How likely a file system is the root: one that its partition's type calls so, then one that tells its name, then the
/// largest.
type Rank = (bool, bool, u64);

/// Whether a file system looks like a root, and how much.
fn rank(found: &RootFileSystem, partition: Option<&Partition>) -> Result<Option<Rank>> {
    let named = found.has("/etc/os-release")? || found.has("/usr/lib/os-release")?;
    let folders = found.has("/etc")? && (found.has("/usr")? || found.has("/lib")?);
    let is_root = partition.is_some_and(|found| found.kind.is_root());
    let length = partition.map_or(0, |found| found.length);
    Ok((named || folders).then_some((is_root, named, length)))
}

/// What the file system that is read is called; its predecessors are read too.
const EXT: &str = "ext4";

/// Marks of file systems and of what else partitions hold: where it lies, the mark, its name.
const MARKS: [(u64, &[u8], &str); 12] = [
    (1080, b"\x53\xef", EXT),
    (65_600, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"hsqs", "squashfs"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (512, b"LABELONE", "LVM"),
    (4086, b"SWAPSPACE2", "swap"),
    (82, b"FAT32", "FAT"),
    (54, b"FAT1", "FAT"),
    (3, b"NTFS", "NTFS"),
];

/// What a disk or a partition of it holds.
fn kind_of(disk: &dyn DiskImage, partition: Option<&Partition>, path: &Path) -> Result<Option<&'static str>> {
    let (start, length) = partition.map_or((0, disk.size()), |found| (found.start, found.length));
    for (offset, mark, name) in MARKS {
        if offset + mark.len() as u64 > length {
            continue;
        }
        let mut bytes = vec![0; mark.len()];
        let read = disk.read(&mut [IoSliceMut::new(&mut bytes)], start + offset);
        read.map_err(Into::into).context(DiskSnafu { path })?;
        if bytes == mark {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Why there is no root, and what there is instead.
fn explain(seen: &[(Option<Partition>, Option<&'static str>)]) -> String {
    let describe = |(partition, kind): &(Option<Partition>, Option<&str>)| {
        let kind = kind.unwrap_or("nothing that is known");
        match partition {
            Some(partition) => format!("partition {} holds {kind}", partition.number),
            None => format!("it has no partitions and holds {kind}"),
        }
    };
    let seen: Vec<String> = seen.iter().map(describe).collect();
    format!("no root file system was found: {}; only ext4, and ext2 and ext3, are read", seen.join(", "))
}

fn release(root: &RootFileSystem) -> Result<Release> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if root.has(path)? {
            return Ok(parse_release(&String::from_utf8_lossy(&root.read(path, LARGEST_RELEASE)?)));
        }
    }
    Ok(Release { name: "an unnamed system".to_owned(), ..Release::default() })
}

/// Reads os-release: lines of `NAME=value`, perhaps in quotes.
fn parse_release(text: &str) -> Release {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = lines.find(|(found, _)| found.trim() == name)?;
        let value: String = value.trim().trim_matches(['"', '\'']).chars().take(80).collect();
        Some(value.escape_debug().to_string())
    };
    let name =
        value("PRETTY_NAME").or_else(|| value("NAME")).unwrap_or_else(|| "an unnamed system".to_owned());
    let mut version = [0; 3];
    // Versions such as 24.04 have zeroes that ours do not.
    for (place, number) in version.iter_mut().zip(value("VERSION_ID").unwrap_or_default().split('.')) {
        *place = number.parse().unwrap_or(0);
    }
    Release { name, version }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_tells_its_name_and_version() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n";
        let expected = Release { name: "Debian GNU/Linux 13 (trixie)".into(), version: [13, 0, 0] };
        assert_eq!(parse_release(debian), expected);
        let ubuntu = parse_release("NAME='Ubuntu'\nVERSION_ID=24.04\n");
        assert_eq!(ubuntu, Release { name: "Ubuntu".into(), version: [24, 4, 0] });
        assert_eq!(parse_release("\0\n=\nVERSION_ID=rolling").version, [0; 3]);
        // What a stranger wrote does not reach a terminal as it is.
        assert!(!parse_release("NAME=\u{1b}[31m").name.contains('\u{1b}'));
    }
}
