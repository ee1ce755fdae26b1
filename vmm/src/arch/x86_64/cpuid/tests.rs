use super::*;

fn leaf(function: u32, registers: [u32; 4]) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = registers;
    CpuidEntry { function, eax, ebx, ecx, edx, ..CpuidEntry::default() }
}

fn part(function: u32, index: u32, registers: [u32; 4]) -> CpuidEntry {
    CpuidEntry { index, flags: CPUID_SIGNIFICANT_INDEX, ..leaf(function, registers) }
}

const ALL: u32 = u32::MAX;

/// KVM, as every host has it.
fn kvm() -> [CpuidEntry; 2] {
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let [first, second, third] = [b"KVMK", b"VMKV", b"M\0\0\0"].map(word);
    [leaf(0x4000_0000, [0x4000_0001, first, second, third]), leaf(0x4000_0001, [ALL, 0, 0, 1])]
}

/// A server of Intel's on which every bit that can be set is.
fn intel() -> Vec<CpuidEntry> {
    let mut table = vec![
        leaf(0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, [0x806f8, 0x1740_0800, ALL, ALL]),
        // L1 data, L2, L3 of a package with 64 numbers, two threads a core.
        part(4, 0, [0x7c00_4121, 1, 2, 3]),
        part(4, 1, [0x7c00_4143, 1, 2, 3]),
        part(4, 2, [0x7c0f_c163, 1, 2, 3]),
        part(4, 3, [0; 4]),
        leaf(6, [ALL; 4]),
        part(7, 0, [2, ALL, ALL, ALL]),
        part(7, 1, [ALL; 4]),
        leaf(0xa, [ALL; 4]),
        part(0xb, 0, [1, 2, 0x100, 23]),
        part(0xb, 1, [6, 64, 0x201, 23]),
        // x87, SSE, AVX, MPX, AVX-512, PKRU, tiles.
        part(0xd, 0, [0x602ff, 11008, 11008, 0]),
        part(0xd, 1, [0x1f, 2696, ALL, 0]),
        part(0xd, 2, [256, 576, 0, 0]),
        part(0xd, 3, [64, 960, 0, 0]),
        part(0xd, 7, [1024, 1664, 0, 0]),
        part(0xd, 9, [8, 2688, 0, 0]),
        // Of the kernel alone: its size counts elsewhere.
        part(0xd, 11, [16, 0, 1, 0]),
        part(0xd, 18, [8192, 2816, 6, 0]),
        part(0x12, 0, [ALL; 4]),
        leaf(0x15, [2, 168, 25_000_000, 0]),
        part(0x1f, 0, [1, 2, 0x100, 23]),
    ];
    table.extend(kvm());
    table.extend([leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]), leaf(0x8000_0007, [ALL; 4])]);
    table.push(leaf(0x8000_0008, [0x3934, 0, 0, 0]));
    table
}

/// A server of AMD's, in the same way.
fn amd() -> Vec<CpuidEntry> {
    let mut table = vec![
        leaf(0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(1, [0xa2_0f10, 0x0720_0800, ALL, ALL]),
        part(7, 0, [0, ALL, ALL, ALL]),
    ];
    table.extend(kvm());
    table.extend([
        leaf(0x8000_0000, [0x8000_0026, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, ALL, ALL]),
        leaf(0x8000_0007, [ALL; 4]),
        leaf(0x8000_0008, [0x3030, 7, 0x707f, 9]),
        leaf(0x8000_000a, [ALL; 4]),
        part(0x8000_001d, 0, [0x4121, 1, 2, 0]),
        part(0x8000_001d, 1, [0x3_c163, 1, 2, 0]),
        part(0x8000_001d, 2, [0; 4]),
        leaf(0x8000_001e, [7, 0x107, 0x301, 0]),
        leaf(0x8000_001f, [ALL; 4]),
        part(0x8000_0026, 0, [ALL; 4]),
    ]);
    table
}

fn policy(cpu: u8, cpus: u8) -> CpuidPolicy {
    CpuidPolicy { cpu, cpus, tsc_kilohertz: 2_596_096, nested: false }
}

fn at(table: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
    let mut found = table.iter().filter(|entry| (entry.function, entry.index) == (function, index));
    let entry = *found.next().unwrap_or_else(|| panic!("{function:#x} {index} is not there"));
    assert_eq!(found.next(), None, "{function:#x} {index} is there twice");
    entry
}

fn is_there(table: &[CpuidEntry], function: u32) -> bool {
    table.iter().any(|entry| entry.function == function)
}

fn bits(register: u32, bits: std::ops::Range<u32>) -> u32 {
    register >> bits.start & ((1 << (bits.end - bits.start)) - 1)
}

#[test]
fn a_processor_knows_its_number_and_that_of_all() {
    for (host, cpu, cpus, bits_of_numbers) in [(intel(), 2, 3, 2), (amd(), 4, 5, 3), (intel(), 0, 1, 0)] {
        let table = policy(cpu, cpus).apply(&host);
        let one = at(&table, 1, 0);
        assert_eq!(bits(one.ebx, 24..32), u32::from(cpu));
        assert_eq!(bits(one.ebx, 16..24), 1 << bits_of_numbers);
        assert_eq!(bits(one.edx, 28..29), u32::from(cpus > 1));
        // The lines that a flush clears are not touched.
        assert_eq!(bits(one.ebx, 0..16), 0x800);
        let [threads, cores, end] = [0, 1, 2].map(|level| at(&table, 0xb, level));
        assert_eq!([threads.eax, threads.ebx, threads.ecx], [0, 1, 0x100]);
        assert_eq!([cores.eax, cores.ebx, cores.ecx], [bits_of_numbers, u32::from(cpus), 0x201]);
        assert_eq!([end.eax, end.ebx, end.ecx], [0, 0, 2]);
        assert!([threads, cores, end].iter().all(|level| level.edx == u32::from(cpu) && level.flags == 1));
        assert!(!is_there(&table, 0x1f) && !is_there(&table, 0x8000_0026));
    }
}

#[test]
fn the_largest_machine_has_numbers_for_all() {
    let table = policy(254, 255).apply(&intel());
    assert_eq!(bits(at(&table, 1, 0).ebx, 16..32), 0xfeff);
    assert_eq!((at(&table, 0xb, 1).eax, at(&table, 0xb, 1).ebx), (8, 255));
    assert_eq!(bits(at(&table, 4, 2).eax, 14..32), 63 << 12 | 255);
}

#[test]
fn intels_caches_are_shared_as_the_machines_cores_are() {
    let table = policy(0, 4).apply(&intel());
    for (index, sharing) in [(0, 1), (1, 1), (2, 4)] {
        let cache = at(&table, 4, index);
        assert_eq!((bits(cache.eax, 14..26), bits(cache.eax, 26..32)), (sharing - 1, 3));
        assert_eq!((bits(cache.eax, 0..14), cache.ebx), (bits(at(&intel(), 4, index).eax, 0..14), 1));
    }
    assert_eq!(at(&table, 4, 3), part(4, 3, [0; 4]));
}

#[test]
fn amds_caches_and_cores_are_the_machines() {
    let table = policy(2, 4).apply(&amd());
    assert_eq!(at(&table, 0x8000_0008, 0), leaf(0x8000_0008, [0x3030, 7, 2 << 12 | 3, 9]));
    assert_eq!(at(&table, 0x8000_001e, 0), leaf(0x8000_001e, [2, 2, 0, 0]));
    assert_eq!(bits(at(&table, 0x8000_001d, 0).eax, 14..26), 0);
    assert_eq!(bits(at(&table, 0x8000_001d, 1).eax, 14..26), 3);
    assert_eq!(at(&table, 0x8000_001d, 2).eax, 0);
    let several = |table: &[CpuidEntry]| bits(at(table, 0x8000_0001, 0).ecx, 1..2);
    assert_eq!((several(&table), several(&policy(0, 1).apply(&amd()))), (1, 0));
}

#[test]
fn processors_of_a_machine_differ_by_their_number_alone() {
    for host in [intel(), amd()] {
        let [first, second] = [0, 1].map(|cpu| policy(cpu, 2).apply(&host));
        let differs = |(left, right): (&CpuidEntry, &CpuidEntry)| (left != right).then_some(left.function);
        let mut functions: Vec<_> = first.iter().zip(&second).filter_map(differs).collect();
        functions.dedup();
        assert!(
            functions.iter().all(|function| [0x1, 0xb, 0x8000_001e].contains(function)),
            "{functions:x?}"
        );
    }
}

#[test]
fn a_guest_is_told_that_it_is_one_and_has_the_timer_it_needs() {
    let mut host = intel();
    host[1].ecx = 0;
    let ecx = at(&policy(0, 1).apply(&host), 1, 0).ecx;
    // x2APIC, the timer's deadline mode, hypervisor.
    assert_eq!(ecx, 1 << 21 | 1 << 24 | 1 << 31);
}

#[test]
fn what_a_machine_does_not_have_is_not_seen() {
    let table = policy(0, 2).apply(&intel());
    for function in [0x5, 0xa, 0x12, 0x14, 0x1d, 0x1f] {
        assert!(!is_there(&table, function), "{function:#x}");
    }
    let one = at(&table, 1, 0);
    // MONITOR, VMX, SMX, EIST, TM2, PDCM; DS, thermal control, thermal monitor.
    assert_eq!(one.ecx & (1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15), 0);
    assert_eq!(one.edx & (1 << 21 | 1 << 22 | 1 << 29), 0);
    let seven = at(&table, 7, 0);
    // SGX, HLE, RTM, MPX, processor trace; tiles.
    assert_eq!(seven.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 25), 0);
    assert_eq!(seven.edx & (1 << 22 | 1 << 24 | 1 << 25), 0);
    // What protects against speculation stays: IBRS, STIBP, L1D flush, ARCH_CAPABILITIES, SSBD.
    assert_eq!(bits(seven.edx, 26..32) | 1 << 4, 0b11_1111);
    // Of power, only ARAT; and that the counter never stops.
    assert_eq!(at(&table, 6, 0), leaf(6, [4, 0, 0, 0]));
    assert_eq!(at(&table, 0x8000_0007, 0), leaf(0x8000_0007, [0, 0, 0, 1 << 8]));
    let table = policy(0, 2).apply(&amd());
    assert!(!is_there(&table, 0x8000_000a) && !is_there(&table, 0x8000_001f));
    // SVM, IBS, SKINIT, performance counters.
    let ecx = at(&table, 0x8000_0001, 0).ecx;
    assert_eq!(ecx & (1 << 2 | 1 << 10 | 1 << 12 | 1 << 23 | 1 << 24 | 1 << 28), 0);
}

#[test]
fn a_guest_that_may_nest_sees_how() {
    let nested = |host: &[CpuidEntry]| CpuidPolicy { nested: true, ..policy(0, 1) }.apply(host);
    assert_eq!(bits(at(&nested(&intel()), 1, 0).ecx, 5..6), 1);
    let table = nested(&amd());
    assert_eq!(bits(at(&table, 0x8000_0001, 0).ecx, 2..3), 1);
    assert_eq!(at(&table, 0x8000_000a, 0).edx, ALL);
}

#[test]
fn a_host_offers_the_extension_of_its_vendor_or_none() {
    let with = |function, ecx| [leaf(0, [1, 0, 0, 0]), leaf(function, [ALL, ALL, ecx, ALL])];
    assert_eq!(virtualization(&with(1, 1 << 5)), Some(Virtualization::Vmx));
    assert_eq!(virtualization(&with(0x8000_0001, 1 << 2)), Some(Virtualization::Svm));
    assert_eq!(virtualization(&with(1, !(1 << 5))), None);
    assert_eq!(virtualization(&with(0x8000_0001, !(1 << 2))), None);
    assert_eq!(virtualization(&[]), None);
    // A guest that may not nest offers its own guests nothing.
    assert_eq!([intel(), amd()].map(|host| virtualization(&policy(0, 1).apply(&host))), [None, None]);
}

#[test]
fn the_size_of_a_processors_state_is_that_of_its_parts() {
    let table = policy(0, 1).apply(&intel());
    let whole = at(&table, 0xd, 0);
    // x87, SSE, AVX, AVX-512, PKRU, which lies last.
    assert_eq!((whole.eax, whole.ecx), (0x2e7, 2696));
    assert!(!table.iter().any(|entry| entry.function == 0xd && [3, 18].contains(&entry.index)));
    assert_eq!(at(&table, 0xd, 1).eax, 0xf);
    let mut host = intel();
    host.retain(|entry| entry.function != 0xd || entry.index < 2);
    assert_eq!(at(&policy(0, 1).apply(&host), 0xd, 0).ecx, 576);
}

#[test]
fn a_guest_sees_kvm_with_what_it_may_use_of_it() {
    let table = policy(0, 1).apply(&amd());
    let signature = at(&table, 0x4000_0000, 0);
    assert_eq!((signature.eax, signature.ebx), (0x4000_0010, u32::from_le_bytes(*b"KVMK")));
    let features = at(&table, 0x4000_0001, 0);
    // Clocks, no port delay, steal time, end of interrupt, halting locks, flushes, interrupts, yielding, stability.
    assert_eq!((features.eax, features.edx), (0x0100_2aeb, 0));
    assert_eq!(at(&table, 0x4000_0010, 0), leaf(0x4000_0010, [2_596_096, 1_000_000, 0, 0]));
}

#[test]
fn what_the_host_does_not_have_is_not_promised() {
    let mut host = amd();
    host.retain(|entry| entry.function & 0xf000_0000 != 0x4000_0000);
    assert!(!policy(0, 1).apply(&host).iter().any(|entry| entry.function & 0xf000_0000 == 0x4000_0000));
    for entry in amd().iter_mut().filter(|entry| entry.function == 0x4000_0001) {
        entry.eax = 1 << 3;
        let host = [kvm()[0], *entry];
        assert_eq!(at(&policy(0, 1).apply(&host), 0x4000_0001, 0).eax, 1 << 3);
    }
    host[0].eax = 7;
    assert!(!is_there(&policy(0, 1).apply(&host), 0xb));
}

#[test]
fn the_rate_of_the_counter_is_told_as_intel_tells_it() {
    let table = policy(0, 1).apply(&intel());
    let crystal = at(&table, 0x15, 0);
    let hertz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
    assert_eq!(hertz, 2_596_096_000);
    assert_eq!(at(&table, 0x16, 0), leaf(0x16, [2596, 2596, 100, 0]));
    assert!(!is_there(&policy(0, 1).apply(&amd()), 0x15));
}

#[test]
fn the_width_of_addresses_is_the_hosts() {
    assert_eq!((physical_address_bits(&intel()), physical_address_bits(&amd())), (0x34, 0x30));
    assert_eq!(physical_address_bits(&[]), 36);
}
