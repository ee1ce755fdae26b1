//! Model-specific registers that do not begin as a kernel without firmware needs them.

use super::cpuid::Virtualization;

/// A register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelSpecificRegister {
    /// Its number.
    pub index: u32,
    /// What is in it.
    pub value: u64,
}

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1 << 0;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
const BRANCH_TRACE_UNAVAILABLE: u64 = 1 << 11;
const PRECISE_EVENT_SAMPLING_UNAVAILABLE: u64 = 1 << 12;

const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

/// What firmware would have set on every processor (Intel SDM volume 4, table 2-2), for a guest that may run virtual
/// machines by this extension, or by none. What is not named here begins as after a reset, which is what the kernel
/// expects: with SVM, that is a `VM_CR` that forbids nothing (AMD APM volume 2, 15.30.1).
pub fn initial_registers(nested: Option<Virtualization>) -> Vec<ModelSpecificRegister> {
    let mut registers = vec![
        // Without fast strings, the kernel copies and clears memory without `rep movsb`. The machine has no performance
        // counters, so what samples by them is not available.
        ModelSpecificRegister {
            index: MISC_ENABLE,
            value: FAST_STRINGS | BRANCH_TRACE_UNAVAILABLE | PRECISE_EVENT_SAMPLING_UNAVAILABLE,
        },
        // All memory is write-back, without any variable range; devices are mapped uncached by the page tables.
        ModelSpecificRegister { index: MTRR_DEFAULT_TYPE, value: MTRR_ENABLE | WRITE_BACK },
    ];
    if nested == Some(Virtualization::Vmx) {
        // VMXON faults until firmware has permitted it and locked the register (Intel SDM volume 3, 24.7). There is no
        // SMX in the machine.
        registers.push(ModelSpecificRegister { index: FEATURE_CONTROL, value: LOCKED | VMX_OUTSIDE_SMX });
    }
    registers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(nested: Option<Virtualization>, index: u32) -> Option<u64> {
        initial_registers(nested)
            .into_iter()
            .find(|register| register.index == index)
            .map(|found| found.value)
    }

    #[test]
    fn only_a_guest_that_may_use_vmx_finds_it_permitted_and_locked() {
        assert_eq!(value(Some(Virtualization::Vmx), FEATURE_CONTROL), Some(0b101));
        assert_eq!(value(Some(Virtualization::Svm), FEATURE_CONTROL), None);
        assert_eq!(value(None, FEATURE_CONTROL), None);
    }

    #[test]
    fn memory_is_cached_in_every_machine() {
        for nested in [None, Some(Virtualization::Vmx), Some(Virtualization::Svm)] {
            assert_eq!(value(nested, MTRR_DEFAULT_TYPE), Some(0x806));
        }
    }
}
