//! The boot parameters: what a loader tells the kernel (Linux, Documentation/arch/x86/zero-page.rst and boot.rst).

use std::ops::Range;

use super::memory_map::AddressRangeKind;

/// What there is to tell.
pub(super) struct BootParameters<'a> {
    pub(super) command_line: u64,
    pub(super) command_line_length: u32,
    pub(super) initramfs: &'a Range<u64>,
    pub(super) root_pointer: u64,
    pub(super) address_ranges: &'a [(Range<u64>, AddressRangeKind)],
}

const LENGTH: usize = 0x1000;

// Fields of `struct boot_params`. Where a field has an upper half for addresses above 4 GiB, that is the second.
const ACPI_ROOT_POINTER: usize = 0x070;
const INITRAMFS_ADDRESS: [usize; 2] = [0x218, 0x0c0];
const INITRAMFS_LENGTH: [usize; 2] = [0x21c, 0x0c4];
const COMMAND_LINE_ADDRESS: [usize; 2] = [0x228, 0x0c8];
const COMMAND_LINE_LENGTH: usize = 0x238;
const ADDRESS_RANGE_COUNT: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const LOADER: usize = 0x210;
const KERNEL_ALIGNMENT: usize = 0x230;
const ADDRESS_RANGES: usize = 0x2d0;

/// A loader that has no number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

/// The version of the protocol that has all of these fields.
const PROTOCOL: u16 = 0x20f;

impl BootParameters<'_> {
    /// The page that the kernel reads. No more address ranges than its 128 places are given by us.
    pub(super) fn page(&self) -> Vec<u8> {
        let mut page = vec![0; LENGTH];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
        put(HEADER, b"HdrS");
        put(VERSION, &PROTOCOL.to_le_bytes());
        put(LOADER, &[UNDEFINED_LOADER]);
        put(KERNEL_ALIGNMENT, &0x100_0000_u32.to_le_bytes());
        put(ACPI_ROOT_POINTER, &self.root_pointer.to_le_bytes());
        put(COMMAND_LINE_LENGTH, &self.command_line_length.to_le_bytes());
        let halves = [
            (INITRAMFS_ADDRESS, self.initramfs.start),
            (INITRAMFS_LENGTH, self.initramfs.end - self.initramfs.start),
            (COMMAND_LINE_ADDRESS, self.command_line),
        ];
        for ([lower, upper], value) in halves {
            let bytes = value.to_le_bytes();
            put(lower, &bytes[..4]);
            put(upper, &bytes[4..]);
        }
        let mut at = ADDRESS_RANGES;
        let mut count = 0;
        for (range, kind) in self.address_ranges {
            put(at, &range.start.to_le_bytes());
            put(at + 8, &(range.end - range.start).to_le_bytes());
            put(at + 16, &(*kind as u32).to_le_bytes());
            at += 20;
            count += 1;
        }
        put(ADDRESS_RANGE_COUNT, &[count]);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_finds_each_value_where_its_documentation_says() {
        let page = BootParameters {
            command_line: 0x6000,
            command_line_length: 42,
            initramfs: &(0x1234_5600_0000..0x1234_5600_1001),
            root_pointer: 0xe_0000,
            address_ranges: &[
                (0..0xa_0000, AddressRangeKind::Memory),
                (0xe_0000..0x10_0000, AddressRangeKind::AcpiTables),
            ],
        }
        .page();
        let u32_at = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        assert_eq!(page.len(), 4096);
        assert_eq!(page[0x1fe..0x200], [0x55, 0xaa]);
        assert_eq!(page[0x202..0x208], *b"HdrS\x0f\x02");
        assert_eq!(page[0x210], 0xff);
        // Bytes that are not zero here tell a kernel that a loader did not clear the page.
        assert_eq!(page[0x1ef], 0);
        assert_eq!(u64_at(0x070), 0xe_0000);
        assert_eq!((u32_at(0x228), u32_at(0x0c8), u32_at(0x238)), (0x6000, 0, 42));
        assert_eq!((u32_at(0x218), u32_at(0x0c0)), (0x5600_0000, 0x1234));
        assert_eq!((u32_at(0x21c), u32_at(0x0c4)), (0x1001, 0));
        assert_eq!(page[0x1e8], 2);
        assert_eq!((u64_at(0x2d0), u64_at(0x2d8), u32_at(0x2e0)), (0, 0xa_0000, 1));
        assert_eq!((u64_at(0x2e4), u64_at(0x2ec), u32_at(0x2f4)), (0xe_0000, 0x2_0000, 3));
    }
}
