//! Model-specific registers that do not begin as a kernel without firmware needs them.

/// A register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSpecificRegister {
    /// Its number.
    pub index: u32,
    /// What is in it.
    pub value: u64,
}

const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
const BRANCH_TRACE_UNAVAILABLE: u64 = 1 << 11;
const PRECISE_EVENT_SAMPLING_UNAVAILABLE: u64 = 1 << 12;

const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

/// What firmware would have set on every processor (Intel SDM volume 4, table 2-2). What is not named here begins as
/// after a reset, which is what the kernel expects.
pub const INITIAL_REGISTERS: [ModelSpecificRegister; 2] = [
    // Without fast strings, the kernel copies and clears memory without `rep movsb`. The machine has no performance
    // counters, so what samples by them is not available.
    ModelSpecificRegister {
        index: MISC_ENABLE,
        value: FAST_STRINGS | BRANCH_TRACE_UNAVAILABLE | PRECISE_EVENT_SAMPLING_UNAVAILABLE,
    },
    // All memory is write-back, without any variable range; devices are mapped uncached by the page tables.
    ModelSpecificRegister { index: MTRR_DEFAULT_TYPE, value: MTRR_ENABLE | WRITE_BACK },
];
