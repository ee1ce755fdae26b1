//! What a guest is told of its hypervisor, and of its clock (Linux, Documentation/virt/kvm/x86/cpuid.rst).

use super::{CpuidEntry, CpuidPolicy, Vendor, find};

const SIGNATURE: u32 = 0x4000_0000;
const FEATURES: u32 = 0x4000_0001;
/// Where VMware tells the rates of the counter and the APIC's timer, and other hypervisors after it.
const TIMING: u32 = 0x4000_0010;

/// The timer of KVM's local APIC counts nanoseconds.
const APIC_TIMER_KILOHERTZ: u32 = 1_000_000;

/// KVM's abilities that a guest may use.
///
/// Not asynchronous page faults (bits 4, 10, 14): a guest that waits for a page cannot be saved and restored as it is.
/// Not the control of polling (12), which is for guests that own their processors; not what encrypted guests (16, 17)
/// and larger numbers of APICs (15) need.
const SHOWN_FEATURES: u32 = {
    const CLOCK_OLD: u32 = 1 << 0;
    // Without it, each slow port access is followed by one to port 80.
    const NO_PORT_DELAY: u32 = 1 << 1;
    const CLOCK: u32 = 1 << 3;
    const STEAL_TIME: u32 = 1 << 5;
    // An interrupt's end without an exit, on processors that cannot do that themselves.
    const END_OF_INTERRUPT: u32 = 1 << 6;
    // Locks that halt, flushes that leave out who does not run, many interrupts with one exit, yielding to a holder.
    const UNHALT: u32 = 1 << 7;
    const FLUSH: u32 = 1 << 9;
    const SEND_INTERRUPTS: u32 = 1 << 11;
    const YIELD: u32 = 1 << 13;
    const CLOCK_IS_STABLE: u32 = 1 << 24;
    CLOCK_OLD
        | NO_PORT_DELAY
        | CLOCK
        | STEAL_TIME
        | END_OF_INTERRUPT
        | UNHALT
        | FLUSH
        | SEND_INTERRUPTS
        | YIELD
        | CLOCK_IS_STABLE
};

/// KVM's functions, where the host has KVM.
pub(super) fn leaves(policy: &CpuidPolicy, host: &[CpuidEntry]) -> Vec<CpuidEntry> {
    let Some(signature) = find(host, SIGNATURE) else { return Vec::new() };
    let features = find(host, FEATURES).map_or(0, |entry| entry.eax & SHOWN_FEATURES);
    vec![
        CpuidEntry { eax: TIMING, ..*signature },
        CpuidEntry { function: FEATURES, eax: features, ..CpuidEntry::default() },
        CpuidEntry {
            function: TIMING,
            eax: policy.tsc_kilohertz,
            ebx: APIC_TIMER_KILOHERTZ,
            ..CpuidEntry::default()
        },
    ]
}

/// The rate of the counter as Intel's processors tell it: for a guest that does not know KVM, since there is no other
/// clock to measure the counter by.
pub(super) fn frequencies(policy: &CpuidPolicy, vendor: Vendor, highest_function: u32) -> Vec<CpuidEntry> {
    const CRYSTAL: u32 = 0x15;
    const PROCESSOR: u32 = 0x16;
    if vendor != Vendor::Intel {
        return Vec::new();
    }
    let kilohertz = policy.tsc_kilohertz;
    let leaves = [
        // Counter : crystal = kHz : 1,000,000, and the crystal has 1 GHz, which is that of KVM's APIC timer.
        CpuidEntry {
            function: CRYSTAL,
            eax: APIC_TIMER_KILOHERTZ,
            ebx: kilohertz,
            ecx: APIC_TIMER_KILOHERTZ * 1000,
            ..CpuidEntry::default()
        },
        // Base and highest rate in MHz, and that of a bus.
        CpuidEntry {
            function: PROCESSOR,
            eax: kilohertz / 1000,
            ebx: kilohertz / 1000,
            ecx: 100,
            ..CpuidEntry::default()
        },
    ];
    leaves.into_iter().filter(|leaf| leaf.function <= highest_function).collect()
}
