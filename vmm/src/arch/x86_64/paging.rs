//! The page tables with which the kernel is entered: the first gibibyte, each address mapped to itself.

use super::memory_map::PAGE_TABLES;

/// What they map: from zero to here. The kernel, its parameters and its command line must lie within; it makes its own
/// tables before it looks further.
pub const MAPPED: u64 = 1 << 30;

const PAGE: u64 = 0x1000;
const LARGE_PAGE: u64 = 0x20_0000;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// Three tables, a page each: of level 4, of level 3, of level 2 (Intel SDM volume 3, 4.5).
pub(super) fn page_tables() -> Vec<u8> {
    let mut tables = Vec::new();
    for next in [PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE] {
        let end = tables.len() + 0x1000;
        tables.extend((next | WRITABLE | PRESENT).to_le_bytes());
        tables.resize(end, 0);
    }
    for page in 0..MAPPED / LARGE_PAGE {
        tables.extend(((page * LARGE_PAGE) | LARGE | WRITABLE | PRESENT).to_le_bytes());
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the processor does (Intel SDM volume 3, figure 4-9).
    fn translate(tables: &[u8], address: u64) -> Option<u64> {
        let entry = |table: u64, shift: u32| {
            let at = usize::try_from(table - PAGE_TABLES + (address >> shift & 0x1ff) * 8).unwrap();
            let entry = u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
            (entry & PRESENT != 0).then_some(entry)
        };
        let level_3 = entry(PAGE_TABLES, 39)? & !0xfff;
        let level_2 = entry(level_3, 30)? & !0xfff;
        let page = entry(level_2, 21)?;
        assert_eq!(page & LARGE, LARGE);
        Some((page & !(LARGE_PAGE - 1)) + address % LARGE_PAGE)
    }

    #[test]
    fn the_first_gibibyte_is_mapped_to_itself_and_nothing_else_is() {
        let tables = page_tables();
        assert_eq!(tables.len(), 3 * 0x1000);
        for address in [0, 0x1000, 0x1f_ffff, 0x20_0000, 0x100_0123, MAPPED - 1] {
            assert_eq!(translate(&tables, address), Some(address), "{address:#x}");
        }
        for address in [MAPPED, 4 << 30, 1 << 39, 0xffff_8000_0000_0000] {
            assert_eq!(translate(&tables, address), None, "{address:#x}");
        }
    }
}
