//! Segments, in a processor's registers and in the descriptor table, and those with which the kernel is entered.

use super::memory_map::DESCRIPTOR_TABLE;

/// A segment register with what the processor keeps hidden in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Which descriptor it was loaded from.
    pub selector: u16,
    /// Where the segment begins.
    pub base: u64,
    /// Its last byte, in bytes whatever the granularity.
    pub limit: u32,
    /// The type: four bits whose meaning depends on [`Segment::is_code_or_data`].
    pub kind: u8,
    /// The bit S: not a system segment.
    pub is_code_or_data: bool,
    /// The level that may use it, 0 to 3.
    pub privilege: u8,
    /// The bit P.
    pub is_present: bool,
    /// The bit L: 64-bit code.
    pub is_64_bit: bool,
    /// The bit D/B: 32-bit operands or stack.
    pub is_32_bit: bool,
    /// The bit G: the descriptor counts its limit in pages.
    pub is_in_pages: bool,
    /// The register holds no segment.
    pub is_unusable: bool,
}

/// The register that tells where a descriptor table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Its address.
    pub base: u64,
    /// Its last byte.
    pub limit: u16,
}

/// Readable code, accessed (Intel SDM volume 3, table 3-1).
const CODE: u8 = 11;
/// Writable data, accessed.
const DATA: u8 = 3;
/// A 64-bit task state in use (table 3-2).
const BUSY_TASK_STATE: u8 = 11;

/// The kernel's boot protocol wants this selector in CS (`__BOOT_CS`).
pub(super) const CODE_64: Segment = Segment {
    selector: 0x10,
    base: 0,
    limit: u32::MAX,
    kind: CODE,
    is_code_or_data: true,
    privilege: 0,
    is_present: true,
    is_64_bit: true,
    is_32_bit: false,
    is_in_pages: true,
    is_unusable: false,
};

/// And this one in DS, ES and SS (`__BOOT_DS`).
pub(super) const DATA_FLAT: Segment =
    Segment { selector: 0x18, kind: DATA, is_64_bit: false, is_32_bit: true, ..CODE_64 };

/// A processor in 64-bit mode has a task state, even if the kernel loads its own before it is first used.
pub(super) const TASK_STATE: Segment = Segment {
    selector: 0x20,
    base: 0,
    limit: 0x67,
    kind: BUSY_TASK_STATE,
    is_code_or_data: false,
    privilege: 0,
    is_present: true,
    is_64_bit: false,
    is_32_bit: false,
    is_in_pages: false,
    is_unusable: false,
};

/// A register without a segment.
pub(super) const NONE: Segment = Segment {
    selector: 0,
    base: 0,
    limit: 0,
    kind: 0,
    is_code_or_data: false,
    privilege: 0,
    is_present: false,
    is_64_bit: false,
    is_32_bit: false,
    is_in_pages: false,
    is_unusable: true,
};

/// The descriptors: two that nothing uses, code, data, and the task state, which takes two places.
pub(super) fn descriptor_table() -> Vec<u8> {
    let task_state_upper = TASK_STATE.base >> 32;
    let descriptors =
        [0, 0, descriptor(&CODE_64), descriptor(&DATA_FLAT), descriptor(&TASK_STATE), task_state_upper];
    descriptors.map(u64::to_le_bytes).concat()
}

/// The register of that table.
pub(super) const TABLE_REGISTER: DescriptorTable =
    DescriptorTable { base: DESCRIPTOR_TABLE, limit: 6 * 8 - 1 };

/// A segment as a descriptor (Intel SDM volume 3, figure 3-8).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.is_in_pages { segment.limit >> 12 } else { segment.limit });
    let flag = |set: bool, bit: u32| u64::from(set) << bit;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | u64::from(segment.kind) << 40
        | flag(segment.is_code_or_data, 44)
        | u64::from(segment.privilege) << 45
        | flag(segment.is_present, 47)
        | (limit >> 16 & 0xf) << 48
        | flag(segment.is_64_bit, 53)
        | flag(segment.is_32_bit, 54)
        | flag(segment.is_in_pages, 55)
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(descriptor(&CODE_64), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&DATA_FLAT), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&TASK_STATE), 0x0000_8b00_0000_0067);
        let segment = Segment { base: 0x1234_5678, ..TASK_STATE };
        assert_eq!(descriptor(&segment), 0x1200_8b34_5678_0067);
    }

    #[test]
    fn each_selector_names_its_descriptor_in_the_table() {
        let table = descriptor_table();
        assert_eq!(table.len(), usize::from(TABLE_REGISTER.limit) + 1);
        for segment in [CODE_64, DATA_FLAT, TASK_STATE] {
            let at = usize::from(segment.selector);
            assert_eq!(table[at..at + 8], descriptor(&segment).to_le_bytes());
        }
    }
}
