//! The guest's physical addresses.
//!
//! ```text
//! 0            1000       GDT, boot parameters, page tables, command line: usable again once the kernel runs
//! e0000        100000     ACPI tables
//! 100000       ...        the kernel where its file wants it; the initial file system at the end of low memory
//! c0000000     100000000  no memory: devices
//!   c0000000   e0000000   kept for PCI's memory windows
//!   e0000000   f0000000   kept for PCI's configuration space
//!   fe000000              virtio-mmio devices, a page each
//!   fec00000              IO-APIC
//!   fee00000              local APICs, and the window of message-signalled interrupts
//!   feffc000   ff000000   four pages that KVM needs on Intel processors
//! 100000000    ...        memory beyond 3 GiB
//! ```

use std::ops::Range;

/// Where the hole for devices begins, and low memory ends at the latest.
const HOLE_START: u64 = 0xc000_0000;

/// Where the hole ends, and high memory begins.
const HOLE_END: u64 = 0x1_0000_0000;

/// The first of the virtio-mmio devices.
pub(super) const DEVICES: u64 = 0xfe00_0000;

/// The registers of the IO-APIC.
pub const IO_APIC: u64 = 0xfec0_0000;

/// The registers of each processor's local APIC.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// The page from which KVM makes identity-mapped page tables where an Intel processor cannot run without paging.
pub const IDENTITY_MAP_PAGE: u64 = 0xfeff_c000;

/// Three pages for the task state with which KVM runs real mode on such a processor.
pub const TASK_STATE_PAGES: u64 = 0xfeff_d000;

/// The global descriptor table.
pub(super) const DESCRIPTOR_TABLE: u64 = 0x1000;

/// What the kernel is told, `struct boot_params`: `rsi` at its entry.
pub const BOOT_PARAMETERS: u64 = 0x2000;

/// Three pages of page tables.
pub(super) const PAGE_TABLES: u64 = 0x3000;

/// The command line, with its final zero.
pub(super) const COMMAND_LINE: u64 = 0x6000;

/// How much of it the kernel reads (`COMMAND_LINE_SIZE`).
pub(super) const COMMAND_LINE_LENGTH: u64 = 2048;

/// From here to the tables a PC has its screen and firmware; kernels never take it for memory.
const LEGACY_START: u64 = 0xa_0000;

/// The ACPI tables, where kernels also search for them.
pub(super) const ACPI_TABLES: Range<u64> = 0xe_0000..0x10_0000;

/// The lowest address of a kernel: everything of ours lies below.
pub const KERNEL_START: u64 = ACPI_TABLES.end;

/// What lies at an address, as the kernel is told (ACPI 6.5, 15: address range types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressRangeKind {
    Memory = 1,
    AcpiTables = 3,
}

/// How a machine's memory is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    low_end: u64,
    high_end: u64,
}

impl MemoryMap {
    /// The layout of so many bytes, a whole number of pages and more than a mebibyte.
    pub fn new(bytes: u64) -> Self {
        let low_end = bytes.min(HOLE_START);
        Self { low_end, high_end: HOLE_END.saturating_add(bytes - low_end) }
    }

    /// The ranges that are memory, in ascending order: one, or two with the hole between them.
    pub fn memory(&self) -> Vec<Range<u64>> {
        let high = HOLE_END..self.high_end;
        std::iter::once(0..self.low_end).chain((!high.is_empty()).then_some(high)).collect()
    }

    /// Where memory below the hole ends.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// The first address above everything in the machine. Processors have limits: see
    /// [`physical_address_bits`](super::physical_address_bits).
    pub fn end(&self) -> u64 {
        self.high_end
    }

    /// What the kernel is told of its memory. What is not listed is not there.
    pub(super) fn address_ranges(&self) -> Vec<(Range<u64>, AddressRangeKind)> {
        let mut ranges = vec![
            (0..LEGACY_START, AddressRangeKind::Memory),
            (ACPI_TABLES, AddressRangeKind::AcpiTables),
            (ACPI_TABLES.end..self.low_end, AddressRangeKind::Memory),
        ];
        if self.high_end > HOLE_END {
            ranges.push((HOLE_END..self.high_end, AddressRangeKind::Memory));
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MOST_DEVICES, device_windows};
    use super::*;

    const GIBIBYTE: u64 = 1 << 30;

    #[test]
    fn memory_that_would_reach_into_the_hole_goes_on_above_it() {
        for bytes in [96 << 20, 3 * GIBIBYTE] {
            let low = 0..bytes;
            assert_eq!(MemoryMap::new(bytes).memory(), std::slice::from_ref(&low));
        }
        let (low, high) = (0..3 * GIBIBYTE, 4 * GIBIBYTE..4 * GIBIBYTE + (2 << 20));
        assert_eq!(MemoryMap::new(3 * GIBIBYTE + (2 << 20)).memory(), [low, high]);
        assert_eq!(MemoryMap::new(1024 * GIBIBYTE).end(), 1025 * GIBIBYTE);
    }

    #[test]
    fn every_byte_of_memory_is_there_whatever_its_size() {
        for mebibytes in [96, 98, 3070, 3072, 3074, 4096, 1 << 20] {
            let map = MemoryMap::new(mebibytes << 20);
            let total: u64 = map.memory().iter().map(|range| range.end - range.start).sum();
            assert_eq!(total, mebibytes << 20);
            assert!(map.memory().iter().all(|range| range.end <= map.end()));
        }
    }

    #[test]
    fn what_the_kernel_is_told_lies_in_memory_in_order_and_apart() {
        for mebibytes in [96, 3072, 3074] {
            let map = MemoryMap::new(mebibytes << 20);
            let ranges = map.address_ranges();
            assert!(ranges.windows(2).all(|pair| pair[0].0.end <= pair[1].0.start), "{ranges:x?}");
            for (range, _) in &ranges {
                assert!(
                    map.memory().iter().any(|memory| memory.start <= range.start && range.end <= memory.end)
                );
            }
        }
    }

    #[test]
    fn nothing_in_the_hole_overlaps() {
        let devices = device_windows(MOST_DEVICES).unwrap();
        let last = devices.last().unwrap();
        let mut pieces = vec![
            DEVICES..last.address + last.length,
            IO_APIC..IO_APIC + 0x1000,
            // A message-signalled interrupt names its processor in bits 19 to 12 (Intel SDM volume 3, 11.11.1).
            LOCAL_APIC..LOCAL_APIC + 0x10_0000,
            IDENTITY_MAP_PAGE..IDENTITY_MAP_PAGE + 0x1000,
            TASK_STATE_PAGES..TASK_STATE_PAGES + 0x3000,
        ];
        pieces.sort_by_key(|piece| piece.start);
        assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start), "{pieces:x?}");
        assert!(pieces[0].start >= HOLE_START && pieces[4].end <= HOLE_END);
    }
}
