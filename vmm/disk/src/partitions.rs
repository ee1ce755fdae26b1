//! Partition tables: MBR with logical partitions, and GPT (UEFI 2.10, chapter 5), read as the guest's kernel reads them.
//!
//! Sectors have 512 bytes: those of the guest's disks do.

use std::fmt;
use std::io::{self, IoSliceMut};

use flate2::Crc;
use snafu::{ResultExt, Snafu, ensure};

use crate::DiskImage;
use crate::bytes::{all_zero, index};
use crate::foreign::numbers::{le32, le64};

/// No table with more partitions is read.
pub const MAX_PARTITIONS: usize = 256;

const SECTOR: u64 = 512;
/// The first four entries of an MBR begin here, and its mark is behind them.
const MBR_ENTRIES: usize = 446;
const MBR_MARK: [u8; 2] = [0x55, 0xaa];
/// Types of an MBR's entries: a container of logical partitions, and the one that stands for a GPT.
const CONTAINERS: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE: u8 = 0xee;
/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

const GPT_MARK: &[u8] = b"EFI PART";
/// No list of partitions is longer; the usual one has 16 KiB.
const LARGEST_LIST: u64 = 1 << 20;

/// The partitions of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionTable {
    /// There is no table: the disk may be one file system.
    None,
    /// A master boot record.
    Mbr(Vec<Partition>),
    /// A GUID partition table.
    Gpt(Vec<Partition>),
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number: the kernel puts it behind the disk's name.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// How many bytes it has.
    pub length: u64,
    /// What it is for, as the table says.
    pub kind: PartitionKind,
}

/// What a partition is for, as the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionKind {
    /// A type of an MBR.
    Mbr(u8),
    /// A type of a GPT, as it stands there.
    Gpt([u8; 16]),
}

/// Why a partition table is not read.
#[derive(Debug, Snafu)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PartitionError {
    #[snafu(display("cannot read the partition table"))]
    ReadTable { source: io::Error },
    #[snafu(display("the partition table (GPT) and its copy at the end of the disk are damaged"))]
    DamagedGpt,
    #[snafu(display("the partition table is for sectors of 4096 bytes: guests have sectors of 512"))]
    LargeSectors,
    #[snafu(display(
        "the logical partitions lead round in a circle, or there are more than {MAX_PARTITIONS}"
    ))]
    Endless,
}

type Result<T, E = PartitionError> = std::result::Result<T, E>;

impl PartitionTable {
    /// The partitions, in the order of their numbers.
    pub fn partitions(&self) -> &[Partition] {
        match self {
            Self::None => &[],
            Self::Mbr(partitions) | Self::Gpt(partitions) => partitions,
        }
    }
}

impl PartitionKind {
    /// Whether it is for the root file system of a machine with this or any processor: types 4F68BCE3-… (x86_64) and
    /// B921B045-… (arm64) of the Discoverable Partitions Specification.
    pub fn is_root(self) -> bool {
        const ROOTS: [[u8; 16]; 2] = [
            [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09],
            [0x45, 0xb0, 0x21, 0xb9, 0xf0, 0x1d, 0xc3, 0x41, 0xaf, 0x44, 0x4c, 0x6f, 0x28, 0x0d, 0x3f, 0xae],
        ];
        matches!(self, Self::Gpt(kind) if ROOTS.contains(&kind))
    }
}

impl fmt::Display for PartitionTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::Mbr(_) => "MBR",
            Self::Gpt(_) => "GPT",
        })
    }
}

/// Reads the partition table of a disk. Partitions that do not lie within the disk are left out, as the kernel does.
pub fn partitions(disk: &dyn DiskImage) -> Result<PartitionTable> {
    let Some(first) = sector(disk, 0)? else { return Ok(PartitionTable::None) };
    let Some(entries) = mbr_entries(&first) else {
        // A GPT whose protective MBR was lost is none to the kernel either.
        return Ok(PartitionTable::None);
    };
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        return gpt(disk).map(PartitionTable::Gpt);
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(&entries) {
        if CONTAINERS.contains(&entry.kind) {
            logical(disk, entry, &mut found)?;
        } else {
            found.extend(entry.partition(number, 0, disk.size()));
        }
    }
    found.sort_by_key(|partition| partition.number);
    Ok(if found.is_empty() { PartitionTable::None } else { PartitionTable::Mbr(found) })
}

fn sector(disk: &dyn DiskImage, number: u64) -> Result<Option<Vec<u8>>> {
    read(disk, number, SECTOR)
}

/// Bytes from a sector on; none if they reach past the end.
fn read(disk: &dyn DiskImage, number: u64, length: u64) -> Result<Option<Vec<u8>>> {
    let start = number.checked_mul(SECTOR);
    let Some(start) = start.filter(|at| at.checked_add(length).is_some_and(|end| end <= disk.size())) else {
        return Ok(None);
    };
    let mut bytes = vec![0; index(length)];
    disk.read(&mut [IoSliceMut::new(&mut bytes)], start).context(ReadTableSnafu)?;
    Ok(Some(bytes))
}

/// An entry of an MBR, in sectors.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: u8,
    start: u64,
    length: u64,
}

impl Entry {
    /// The partition that it describes, if it is one and lies within the disk.
    fn partition(&self, number: u32, base: u64, disk_size: u64) -> Option<Partition> {
        let start = (base + self.start) * SECTOR;
        let length = self.length * SECTOR;
        let exists = self.kind != 0 && self.length > 0 && start > 0 && start + length <= disk_size;
        exists.then_some(Partition { number, start, length, kind: PartitionKind::Mbr(self.kind) })
    }
}

/// The entries of an MBR; none if a sector is not one. Boot sectors of file systems have the mark too, but code where
/// the entries are.
fn mbr_entries(sector: &[u8]) -> Option<[Entry; 4]> {
    if sector[510..512] != MBR_MARK {
        return None;
    }
    let bytes: [&[u8]; 4] = std::array::from_fn(|number| &sector[MBR_ENTRIES + number * 16..][..16]);
    if bytes.iter().any(|entry| !matches!(entry[0], 0 | 0x80)) {
        return None;
    }
    Some(bytes.map(|entry| Entry {
        kind: entry[4],
        start: u64::from(le32(entry, 8)),
        length: u64::from(le32(entry, 12)),
    }))
}

/// Walks the chain of logical partitions: each link has one of them, and leads to the next.
fn logical(disk: &dyn DiskImage, container: &Entry, found: &mut Vec<Partition>) -> Result<()> {
    let mut at = container.start;
    // Behind those of another container, if there is one.
    let mut number = found.iter().map(|other| other.number + 1).fold(FIRST_LOGICAL, u32::max);
    for _ in 0..MAX_PARTITIONS {
        let Some(entries) = sector(disk, at)?.as_deref().and_then(mbr_entries) else { return Ok(()) };
        if let Some(partition) = entries[0].partition(number, at, disk.size()) {
            found.push(partition);
            number += 1;
        }
        let next = entries.iter().find(|entry| CONTAINERS.contains(&entry.kind) && entry.length > 0);
        let Some(next) = next else { return Ok(()) };
        at = container.start + next.start;
    }
    EndlessSnafu.fail()
}

/// The partitions of a GPT, from its header at the start or, where that is damaged, from the one at the end.
fn gpt(disk: &dyn DiskImage) -> Result<Vec<Partition>> {
    let last = (disk.size() / SECTOR).saturating_sub(1);
    for at in [1, last] {
        if let Some(found) = gpt_at(disk, at)? {
            return Ok(found);
        }
    }
    let large = read(disk, 4096 / SECTOR, SECTOR)?;
    ensure!(!large.is_some_and(|sector| sector.starts_with(GPT_MARK)), LargeSectorsSnafu);
    DamagedGptSnafu.fail()
}

fn gpt_at(disk: &dyn DiskImage, at: u64) -> Result<Option<Vec<Partition>>> {
    let Some(header) = sector(disk, at)?.filter(|sector| sector.starts_with(GPT_MARK)) else {
        return Ok(None);
    };
    let length = le32(&header, 12) as usize;
    if !(92..=512).contains(&length) || le64(&header, 24) != at {
        return Ok(None);
    }
    let mut summed = header[..length].to_vec();
    summed[16..20].fill(0);
    if checksum(&summed) != le32(&header, 16) {
        return Ok(None);
    }
    let (count, entry_size) = (u64::from(le32(&header, 80)), u64::from(le32(&header, 84)));
    if entry_size < 128 || count == 0 || count * entry_size > LARGEST_LIST {
        return Ok(None);
    }
    let Some(list) = read(disk, le64(&header, 72), count * entry_size)? else { return Ok(None) };
    if checksum(&list) != le32(&header, 88) {
        return Ok(None);
    }
    let entries = (1..).zip(list.chunks_exact(index(entry_size)));
    let found: Vec<_> = entries.filter_map(|(number, entry)| gpt_entry(number, entry, disk.size())).collect();
    ensure!(found.len() <= MAX_PARTITIONS, EndlessSnafu);
    Ok(Some(found))
}

fn gpt_entry(number: u32, entry: &[u8], disk_size: u64) -> Option<Partition> {
    let kind: [u8; 16] = entry.get(..16)?.try_into().ok()?;
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    let (start, length) = (first.checked_mul(SECTOR)?, sectors.checked_mul(SECTOR)?);
    let inside = start > 0 && start.checked_add(length)? <= disk_size;
    let partition = Partition { number, start, length, kind: PartitionKind::Gpt(kind) };
    (inside && !all_zero(&kind)).then_some(partition)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests;
