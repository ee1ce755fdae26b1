//! The registers with which the first processor enters the kernel. Others wait until the kernel starts them.

use super::memory_map::PAGE_TABLES;
use super::segments::{CODE_64, DATA_FLAT, DescriptorTable, NONE, Segment, TABLE_REGISTER, TASK_STATE};

/// The general registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers have the processor's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// The registers that decide the mode of the processor. Those that are not here stay as they are after a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the registers have the processor's own names")]
pub struct SpecialRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldtr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// The state of a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorState {
    /// The general registers.
    pub registers: Registers,
    /// The registers of its mode.
    pub special: SpecialRegisters,
}

/// A bit that is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

const CR0_PROTECTION: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_PAGING: u64 = 1 << 31;

const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;

const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

/// The state of the 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst, "64-bit boot protocol"): long mode on
/// page tables that map memory to itself, interrupts off, `rsi` at the boot parameters.
///
/// Not PVH, which every kernel of ours has too: at its entry, a kernel that also knows Xen asks for Xen's name at each
/// of 256 places of CPUID, an exit each, and does so once more later on either way. Under another hypervisor such an
/// exit takes tens of microseconds. From there it comes to this entry.
pub fn entry_state(entry: u64, boot_parameters: u64) -> ProcessorState {
    ProcessorState {
        registers: Registers {
            rip: entry,
            rsi: boot_parameters,
            rflags: RFLAGS_RESERVED,
            ..Registers::default()
        },
        special: SpecialRegisters {
            cs: CODE_64,
            ds: DATA_FLAT,
            es: DATA_FLAT,
            fs: NONE,
            gs: NONE,
            ss: DATA_FLAT,
            tr: TASK_STATE,
            ldtr: NONE,
            gdtr: TABLE_REGISTER,
            // There is nothing to handle an exception with: one ends the machine, as a triple fault.
            idtr: DescriptorTable::default(),
            cr0: CR0_PAGING | CR0_NUMERIC_ERROR | CR0_EXTENSION_TYPE | CR0_PROTECTION,
            cr3: PAGE_TABLES,
            cr4: CR4_PHYSICAL_ADDRESS_EXTENSION,
            efer: EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE,
        },
    }
}

#[cfg(test)]
mod entry_checks;
