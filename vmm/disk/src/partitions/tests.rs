use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::RawImage;
use crate::testing::MemoryStorage;

const DISK: usize = 1 << 20;

fn read_table(bytes: Vec<u8>) -> Result<PartitionTable> {
    partitions(&RawImage::open(Arc::new(MemoryStorage::new(bytes)), true).unwrap())
}

/// Writes an MBR's entries, as type, start and length in sectors, into a sector.
fn write_entries(disk: &mut [u8], sector: usize, entries: &[(u8, u32, u32)]) {
    let at = sector * 512;
    disk[at + 510..at + 512].copy_from_slice(&MBR_MARK);
    for (number, (kind, start, length)) in entries.iter().enumerate() {
        let entry = &mut disk[at + MBR_ENTRIES + number * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&length.to_le_bytes());
    }
}

fn places(table: &PartitionTable) -> Vec<(u32, u64, u64)> {
    table.partitions().iter().map(|found| (found.number, found.start / 512, found.length / 512)).collect()
}

/// A disk with a GPT: partitions 1 and 3.
fn gpt_disk() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    write_entries(&mut disk, 0, &[(PROTECTIVE, 1, 2047)]);
    let mut list = vec![0; 128 * 128];
    for (number, first, last) in [(0, 64, 127), (2, 128, 1999)] {
        let entry: &mut [u8] = &mut list[number * 128..][..128];
        entry[..16].fill(7);
        entry[32..40].copy_from_slice(&u64::to_le_bytes(first));
        entry[40..48].copy_from_slice(&u64::to_le_bytes(last));
    }
    for (at, list_at) in [(1_u64, 2_u64), (2047, 2015)] {
        let mut header = [0; 92];
        header[..8].copy_from_slice(GPT_MARK);
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[72..80].copy_from_slice(&list_at.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&checksum(&list).to_le_bytes());
        let sum = checksum(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk[index(at) * 512..][..92].copy_from_slice(&header);
        disk[index(list_at) * 512..][..list.len()].copy_from_slice(&list);
    }
    disk
}

#[test]
fn a_disk_without_a_table_has_no_partitions() {
    assert_eq!(read_table(vec![0; DISK]).unwrap(), PartitionTable::None);
    assert_eq!(read_table(vec![0; 100]).unwrap(), PartitionTable::None);
    // The boot sector of a file system has the mark, and code in the place of the entries.
    let mut disk = vec![0x90; DISK];
    disk[510..512].copy_from_slice(&MBR_MARK);
    assert_eq!(read_table(disk).unwrap(), PartitionTable::None);
}

#[test]
fn primary_and_logical_partitions_have_the_kernels_numbers() {
    let mut disk = vec![0; DISK];
    write_entries(&mut disk, 0, &[(0x83, 8, 8), (0, 0, 0), (0x05, 100, 900), (0x82, 16, 4)]);
    write_entries(&mut disk, 100, &[(0x83, 2, 50), (0x05, 60, 100)]);
    write_entries(&mut disk, 160, &[(0x83, 2, 60), (0, 0, 0)]);
    let table = read_table(disk).unwrap();
    assert!(matches!(table, PartitionTable::Mbr(_)));
    assert_eq!(places(&table), [(1, 8, 8), (4, 16, 4), (5, 102, 50), (6, 162, 60)]);
}

#[test]
fn partitions_beyond_the_disk_are_left_out() {
    let mut disk = vec![0; DISK];
    write_entries(&mut disk, 0, &[(0x83, 8, 8), (0x83, 2000, 49), (0x83, u32::MAX, u32::MAX), (0x83, 0, 9)]);
    assert_eq!(places(&read_table(disk).unwrap()), [(1, 8, 8)]);
}

#[test]
fn logical_partitions_that_lead_round_in_a_circle_are_refused() {
    let mut disk = vec![0; DISK];
    write_entries(&mut disk, 0, &[(0x05, 100, 900)]);
    write_entries(&mut disk, 100, &[(0x83, 2, 5), (0x05, 50, 100)]);
    write_entries(&mut disk, 150, &[(0x83, 2, 5), (0x05, 50, 100)]);
    assert!(matches!(read_table(disk), Err(PartitionError::Endless)));
}

#[test]
fn a_gpt_is_read_and_its_copy_where_it_is_damaged() {
    let expected = [(1, 64, 64), (3, 128, 1872)];
    let disk = gpt_disk();
    assert_eq!(places(&read_table(disk.clone()).unwrap()), expected);
    for damage in [512, 512 + 40, 1024 + 5] {
        let mut damaged = disk.clone();
        damaged[damage] ^= 1;
        assert_eq!(places(&read_table(damaged.clone()).unwrap()), expected);
        damaged[2047 * 512 + 20] ^= 1;
        assert!(matches!(read_table(damaged), Err(PartitionError::DamagedGpt)));
    }
}

#[test]
fn a_gpt_for_large_sectors_is_named() {
    let mut disk = vec![0; DISK];
    write_entries(&mut disk, 0, &[(PROTECTIVE, 1, 2047)]);
    disk[4096..4104].copy_from_slice(GPT_MARK);
    assert!(matches!(read_table(disk), Err(PartitionError::LargeSectors)));
}

#[test]
fn a_root_of_the_specification_is_known() {
    // 4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, its first three parts with the least significant byte first.
    let kind = [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 9];
    assert!(PartitionKind::Gpt(kind).is_root());
    assert!(!PartitionKind::Gpt([0; 16]).is_root() && !PartitionKind::Mbr(0x83).is_root());
}

proptest! {
    #[test]
    fn no_table_breaks_the_reader(changes in proptest::collection::vec((0_usize..3 * 512, any::<u8>()), 0..40)) {
        let mut disk = gpt_disk();
        disk[446 + 4] = 0x05;
        for (at, byte) in changes {
            disk[at] = byte;
        }
        if let Ok(table) = read_table(disk) {
            for found in table.partitions() {
                prop_assert!(found.length > 0 && found.start + found.length <= DISK as u64);
            }
        }
    }
}
