//! How the guest's processors belong together: cores of one package with a thread each, numbered without gaps.

use super::{CPUID_SIGNIFICANT_INDEX, CpuidEntry, CpuidPolicy, Vendor, set_bits};

/// Function 1, EDX: there may be more than one processor in a package.
const SEVERAL: u32 = 28;

/// Function 8000_0001, ECX: and they are cores.
const CORES: u32 = 1;

/// Puts the topology into an entry that has some.
pub(super) fn describe(entry: &mut CpuidEntry, policy: &CpuidPolicy, vendor: Vendor) {
    let (cpu, cpus) = (u32::from(policy.cpu), u32::from(policy.cpus));
    let several = u32::from(cpus > 1);
    match (entry.function, vendor) {
        (0x1, _) => {
            set_bits(&mut entry.ebx, 24..32, cpu);
            set_bits(&mut entry.ebx, 16..24, numbers(policy).min(255));
            set_bits(&mut entry.edx, SEVERAL..SEVERAL + 1, several);
        }
        // Caches (Intel SDM volume 2, CPUID, leaf 4): how many numbers share one, and how many there are for cores.
        (0x4, Vendor::Intel) if entry.eax & 0x1f != 0 => {
            let sharing = sharing(entry, policy);
            set_bits(&mut entry.eax, 14..26, sharing - 1);
            set_bits(&mut entry.eax, 26..32, (numbers(policy) - 1).min(63));
        }
        (0x8000_0001, Vendor::Amd) => set_bits(&mut entry.ecx, CORES..CORES + 1, several),
        (0x8000_0008, Vendor::Amd) => {
            // Their number, and how many bits of an APIC's number tell them apart (AMD APM volume 3, E.4.7).
            entry.ecx = cpus.saturating_sub(1) | number_bits(policy) << 12;
        }
        (0x8000_001d, Vendor::Amd) if entry.eax & 0x1f != 0 => {
            let sharing = sharing(entry, policy);
            set_bits(&mut entry.eax, 14..26, sharing - 1);
        }
        (0x8000_001e, Vendor::Amd) => {
            // The APIC's number; the core's, with one thread; the only node.
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (cpu, cpu, 0, 0);
        }
        _ => {}
    }
}

/// The topology by levels (function B): threads, then cores, then no more.
pub(super) fn extended(policy: &CpuidPolicy, highest_function: u32) -> Vec<CpuidEntry> {
    const FUNCTION: u32 = 0xb;
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    if highest_function < FUNCTION {
        return Vec::new();
    }
    let level = |index: u32, shift: u32, count: u32, kind: u32| CpuidEntry {
        function: FUNCTION,
        index,
        flags: CPUID_SIGNIFICANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: policy.cpu.into(),
    };
    vec![level(0, 0, 1, THREADS), level(1, number_bits(policy), policy.cpus.into(), CORES), level(2, 0, 0, 0)]
}

/// How many processors share a cache: the third level is the package's, others are their core's.
fn sharing(entry: &CpuidEntry, policy: &CpuidPolicy) -> u32 {
    let level = entry.eax >> 5 & 7;
    if level >= 3 { numbers(policy) } else { 1 }
}

/// How many numbers their APICs may have: a power of two.
fn numbers(policy: &CpuidPolicy) -> u32 {
    1 << number_bits(policy)
}

fn number_bits(policy: &CpuidPolicy) -> u32 {
    u32::from(policy.cpus.max(1)).next_power_of_two().trailing_zeros()
}
