//! What an Intel processor checks before it enters a guest (Intel SDM volume 3C, 27.3.1, "Checks on the Guest State
//! Area"), as far as the state is ours: for a guest that enters in 64-bit mode, whatever "unrestricted guest" is.

use super::super::memory_map::{BOOT_PARAMETERS, KERNEL_START};
use super::super::{ProcessorState, Segment, entry_state};

/// What is wrong with a state, each by the words of the manual.
fn violations(state: &ProcessorState) -> Vec<String> {
    let mut violations = Vec::new();
    let mut check = |holds: bool, rule: &str| {
        if !holds {
            violations.push(rule.to_owned());
        }
    };
    let ProcessorState { registers, special } = state;
    let bit = |value: u64, bit: u32| value >> bit & 1 == 1;
    let canonical = |address: u64| {
        let upper = address >> 47;
        upper == 0 || upper == (1 << 17) - 1
    };
    /// That of the smallest processors.
    const PHYSICAL_BITS: u32 = 36;

    // 27.3.1.1: control registers, debug registers, and MSRs. CR0.NE and CR4.VMXE are fixed; KVM sets CR4.VMXE.
    check(bit(special.cr0, 0) || !bit(special.cr0, 31), "CR0.PG needs CR0.PE");
    check(bit(special.cr0, 5), "CR0.NE is fixed to 1");
    check(!bit(special.cr0, 29) || bit(special.cr0, 30), "CR0.NW needs CR0.CD");
    check(special.cr0 & !0xe005_003f == 0, "reserved bits of CR0 are 0");
    check(special.cr4 & !0x017f_ffff == 0, "reserved bits of CR4 are 0");
    check(special.cr3 >> PHYSICAL_BITS == 0, "CR3 is within the physical-address width");
    check(special.cr3 & 0xfe7 == 0, "reserved bits of CR3 are 0");
    let long_mode = bit(special.efer, 10);
    check(long_mode, "this checks 64-bit guests");
    check(bit(special.cr0, 31) && bit(special.cr4, 5), "an IA-32e mode guest has CR0.PG and CR4.PAE");
    check(special.efer & !0xd01 == 0, "reserved bits of IA32_EFER are 0");
    check(bit(special.efer, 8) == long_mode, "IA32_EFER.LMA is IA32_EFER.LME where CR0.PG is set");

    // 27.3.1.2: segment registers.
    check(special.tr.selector & 4 == 0, "TR.TI is 0");
    check(special.ldtr.is_unusable || special.ldtr.selector & 4 == 0, "LDTR.TI is 0");
    check(special.ss.selector & 3 == special.cs.selector & 3, "SS.RPL is CS.RPL");
    for (name, segment) in [("TR", special.tr), ("FS", special.fs), ("GS", special.gs)] {
        check(canonical(segment.base), &format!("the base of {name} is canonical"));
    }
    check(special.ldtr.is_unusable || canonical(special.ldtr.base), "the base of LDTR is canonical");
    check(special.cs.base >> 32 == 0, "bits 63:32 of the base of CS are 0");
    for (name, segment) in [("SS", special.ss), ("DS", special.ds), ("ES", special.es)] {
        check(segment.is_unusable || segment.base >> 32 == 0, &format!("the base of {name} has 32 bits"));
    }
    let cs = special.cs;
    let accessed_code = [9, 11, 13, 15].contains(&cs.kind);
    check(accessed_code || cs.kind == 3, "the type of CS is accessed code (or 3)");
    check(cs.kind != 3 || cs.privilege == 0, "CS of type 3 has DPL 0");
    if [9, 11].contains(&cs.kind) {
        check(cs.privilege == special.ss.privilege, "CS that does not conform has the DPL of SS");
    }
    check(!(cs.is_64_bit && cs.is_32_bit), "CS.D is 0 where CS.L is 1");
    check(special.ss.is_unusable || [3, 7].contains(&special.ss.kind), "the type of SS is 3 or 7");
    check(special.ss.privilege == 0 || cs.kind != 3, "SS.DPL is 0 where the type of CS is 3");
    check(u16::from(special.ss.privilege) == special.ss.selector & 3, "SS.DPL is SS.RPL");
    for (name, segment) in [("DS", special.ds), ("ES", special.es), ("FS", special.fs), ("GS", special.gs)] {
        if !segment.is_unusable {
            check(segment.kind & 1 == 1, &format!("{name} is accessed"));
            check(segment.kind & 8 == 0 || segment.kind & 2 == 2, &format!("{name} is readable"));
            let level = u16::from(segment.privilege) >= segment.selector & 3;
            check(segment.kind > 11 || level, &format!("{name}.DPL is not below RPL"));
        }
    }
    let segments = [
        ("CS", cs),
        ("SS", special.ss),
        ("DS", special.ds),
        ("ES", special.es),
        ("FS", special.fs),
        ("GS", special.gs),
    ];
    for (name, segment) in segments {
        if name == "CS" || !segment.is_unusable {
            check(segment.is_code_or_data, &format!("{name}.S is 1"));
            check(segment.is_present, &format!("{name}.P is 1"));
            check(limit_fits(&segment), &format!("{name}.G fits the limit"));
        }
    }
    check(special.tr.kind == 11, "the type of TR is a busy 64-bit TSS");
    check(!special.tr.is_code_or_data, "TR.S is 0");
    check(special.tr.is_present, "TR.P is 1");
    check(limit_fits(&special.tr), "TR.G fits the limit");
    check(!special.tr.is_unusable, "TR is usable");
    if !special.ldtr.is_unusable {
        check(special.ldtr.kind == 2 && !special.ldtr.is_code_or_data, "LDTR is an LDT");
        check(special.ldtr.is_present && limit_fits(&special.ldtr), "LDTR is present and its limit fits");
    }

    // 27.3.1.3: descriptor-table registers. Their limits have 16 bits here.
    check(canonical(special.gdtr.base), "the base of GDTR is canonical");
    check(canonical(special.idtr.base), "the base of IDTR is canonical");

    // 27.3.1.4: RIP, RSP, and RFLAGS.
    if cs.is_64_bit {
        check(canonical(registers.rip), "RIP is canonical");
    } else {
        check(registers.rip >> 32 == 0, "bits 63:32 of RIP are 0");
    }
    check(registers.rflags & !0x3f_ffd7 == 0 && registers.rflags & 0x8028 == 0, "reserved RFLAGS are 0");
    check(bit(registers.rflags, 1), "bit 1 of RFLAGS is 1");
    check(!bit(registers.rflags, 17), "RFLAGS.VM is 0 in IA-32e mode");
    violations
}

/// "If any bit in the limit field in the range 11:0 is 0, G must be 0. If any bit in the range 31:20 is 1, G must be 1."
fn limit_fits(segment: &Segment) -> bool {
    (segment.limit & 0xfff == 0xfff || !segment.is_in_pages)
        && (segment.limit >> 20 == 0 || segment.is_in_pages)
}

fn state() -> ProcessorState {
    entry_state(KERNEL_START, BOOT_PARAMETERS)
}

#[test]
fn an_intel_processor_enters_the_state() {
    assert_eq!(violations(&state()), Vec::<String>::new());
}

#[test]
fn the_kernel_finds_what_its_boot_protocol_promises() {
    let ProcessorState { registers, special } = state();
    assert_eq!((registers.rip, registers.rsi), (KERNEL_START, BOOT_PARAMETERS));
    // Interrupts are off; CS is 10 and readable code of 64 bits, the others 18 and writable data, flat.
    assert_eq!(registers.rflags & 1 << 9, 0);
    assert_eq!((special.cs.selector, special.cs.kind, special.cs.is_64_bit), (0x10, 11, true));
    for segment in [special.ds, special.es, special.ss] {
        assert_eq!((segment.selector, segment.kind, segment.base, segment.limit), (0x18, 3, 0, u32::MAX));
    }
}

#[test]
fn each_rule_that_is_broken_is_found() {
    type Change = fn(&mut ProcessorState);
    let changes: [(Change, &str); 16] = [
        (|state| state.special.cr0 &= !1, "CR0.PG needs CR0.PE"),
        (|state| state.special.cr0 &= !(1 << 5), "CR0.NE is fixed to 1"),
        (|state| state.special.cr4 = 0, "an IA-32e mode guest has CR0.PG and CR4.PAE"),
        (|state| state.special.cr3 = 1 << 40, "CR3 is within the physical-address width"),
        (|state| state.special.efer &= !(1 << 8), "IA32_EFER.LMA is IA32_EFER.LME where CR0.PG is set"),
        (|state| state.special.tr.kind = 9, "the type of TR is a busy 64-bit TSS"),
        (|state| state.special.tr.is_unusable = true, "TR is usable"),
        (|state| state.special.tr.is_in_pages = true, "TR.G fits the limit"),
        (|state| state.special.cs.is_32_bit = true, "CS.D is 0 where CS.L is 1"),
        (|state| state.special.cs.kind = 10, "the type of CS is accessed code (or 3)"),
        (|state| state.special.cs.is_in_pages = false, "CS.G fits the limit"),
        (|state| state.special.ss.kind = 2, "the type of SS is 3 or 7"),
        (|state| state.special.ds.is_present = false, "DS.P is 1"),
        (|state| state.special.ss.selector |= 3, "SS.RPL is CS.RPL"),
        (|state| state.registers.rflags = 0, "bit 1 of RFLAGS is 1"),
        (|state| state.registers.rip = 1 << 50, "RIP is canonical"),
    ];
    for (change, rule) in changes {
        let mut state = state();
        change(&mut state);
        assert!(violations(&state).iter().any(|violation| violation == rule), "{rule}");
    }
}
