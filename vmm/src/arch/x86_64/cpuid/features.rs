//! Which of the host's abilities a guest sees.
//!
//! A hypervisor lists what it can give to a guest, so all of that is shown but what is named here.

use super::{CPUID_SIGNIFICANT_INDEX, CpuidEntry, Virtualization, find};

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

/// Functions of which a guest sees nothing: it reads zeros.
const HIDDEN_FUNCTIONS: [(u32, &str); 25] = [
    (0x5, "waiting at a monitored address: it would leave the guest"),
    (0x9, "direct cache access"),
    (0xa, "performance counters"),
    (0xb, "topology: the machine's own is put in its place"),
    (0xf, "monitoring of caches and memory bandwidth"),
    (0x10, "allocation of caches and memory bandwidth"),
    (0x12, "enclaves"),
    (0x14, "processor trace"),
    (0x15, "the rate of the counter: the guest's own is put in its place"),
    (0x16, "the rate of the processor: the guest's own is put in its place"),
    (0x17, "the vendor of a system on a chip"),
    (0x19, "keys that cannot be read back"),
    (0x1a, "cores of different kinds"),
    (0x1b, "platform configuration"),
    (0x1c, "records of last branches"),
    (0x1d, "tiles"),
    (0x1e, "multiplication of tiles"),
    (0x1f, "topology with more levels than the machine has"),
    (0x20, "reset of a thread's history"),
    (0x23, "performance counters"),
    (0x8000_001b, "sampling of instructions"),
    (0x8000_001c, "profiling by a program of itself"),
    (0x8000_001f, "encrypted memory"),
    (0x8000_0022, "performance counters"),
    (0x8000_0026, "topology with more levels than the machine has"),
];

/// What a guest that may not run virtual machines does not see.
const SVM_FUNCTION: u32 = 0x8000_000a;
const VMX: (u32, Register, u32) = (0x1, Ecx, 5);
const SVM: (u32, Register, u32) = (0x8000_0001, Ecx, 2);
const VIRTUALIZATION: [(u32, Register, u32); 2] = [VMX, SVM];

/// Single abilities that are hidden: function, index, register, bits.
const HIDDEN: [(u32, u32, Register, &[u32]); 13] = [
    // DTES64, MONITOR, DS-CPL, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA. OSXSAVE follows CR4.
    (0x1, 0, Ecx, &[2, 3, 4, 6, 7, 8, 10, 11, 14, 15, 18, 27]),
    // DS, thermal control, thermal monitor, pending break.
    (0x1, 0, Edx, &[21, 22, 29, 31]),
    // All of power and heat but ARAT, the APIC timer that never stops.
    (0x6, 0, Eax, &ALL_BUT_ARAT),
    // SGX, HLE, RTM, PQM, MPX, PQE, processor trace.
    (0x7, 0, Ebx, &[2, 4, 11, 12, 14, 15, 25]),
    // TME, key locker, ENQCMD, SGX_LC.
    (0x7, 0, Ecx, &[13, 23, 29, 30]),
    // UINTR, RTM_ALWAYS_ABORT, TSX_FORCE_ABORT, hybrid, TSXLDTRK, PCONFIG, last branches, tiles. The bits on
    // speculation stay: they are how a guest protects itself.
    (0x7, 0, Edx, &[5, 11, 13, 15, 16, 18, 19, 22, 24, 25]),
    // Performance counters, tiles, HRESET.
    (0x7, 1, Eax, &[8, 21, 22]),
    // Tiles.
    (0x7, 1, Edx, &[8]),
    // The state of what is hidden above: MPX, tiles.
    (0xd, 0, Eax, &[3, 4, 17, 18]),
    // XFD, which is for tiles.
    (0xd, 1, Eax, &[4]),
    // Processor trace, user interrupts, last branches.
    (0xd, 1, Ecx, &[8, 14, 15]),
    // ExtApicSpace, IBS, SKINIT, WDT, LWP, three kinds of performance counters and PERFTSC, MWAITX.
    (0x8000_0001, 0, Ecx, &[3, 10, 12, 13, 15, 23, 24, 27, 28, 29]),
    // All of power and heat but the bit 8: the time-stamp counter never stops.
    (0x8000_0007, 0, Edx, &ALL_BUT_INVARIANT_COUNTER),
];

const ALL_BUT_ARAT: [u32; 31] = all_but(2);
const ALL_BUT_INVARIANT_COUNTER: [u32; 31] = all_but(8);

/// What the machine has whatever the list says: older versions of KVM list neither the timer's deadline mode nor the
/// x2APIC, which their local APICs have all the same; and a guest is told that it is one.
const SHOWN: [(u32, Register, u32); 3] = [(0x1, Ecx, 21), (0x1, Ecx, 24), (0x1, Ecx, 31)];

/// The function that lists the parts of a processor's state, a part at each index above 1.
const STATE: u32 = 0xd;

/// Parts of it that belong to what is hidden.
const HIDDEN_STATE: [u32; 7] = [3, 4, 8, 14, 15, 17, 18];

/// Whether a guest sees anything of an entry. What hypervisors say of themselves is not taken over here.
pub(super) fn is_shown(entry: &CpuidEntry, nested: bool) -> bool {
    let function = entry.function;
    let hidden = HIDDEN_FUNCTIONS.iter().any(|(hidden, _)| *hidden == function)
        || (function == SVM_FUNCTION && !nested)
        || (function == STATE && HIDDEN_STATE.contains(&entry.index))
        || (0x4000_0000..0x5000_0000).contains(&function);
    !hidden
}

/// Whether a host has an extension for its guests.
pub(super) fn offers(host: &[CpuidEntry], extension: Virtualization) -> bool {
    let (function, register, bit) = match extension {
        Virtualization::Vmx => VMX,
        Virtualization::Svm => SVM,
    };
    find(host, function).copied().is_some_and(|mut entry| *field(&mut entry, register) >> bit & 1 == 1)
}

/// Takes from an entry what a guest does not see, and adds what it always has.
pub(super) fn restrict(entry: &mut CpuidEntry, nested: bool) {
    let (function, index) = (entry.function, entry.index);
    for (_, _, register, bits) in HIDDEN.iter().filter(|hidden| (hidden.0, hidden.1) == (function, index)) {
        let mask = bits.iter().fold(0, |mask, bit| mask | 1 << bit);
        *field(entry, *register) &= !mask;
    }
    for (_, register, bit) in VIRTUALIZATION.iter().filter(|bit| bit.0 == function && !nested) {
        *field(entry, *register) &= !(1 << bit);
    }
    for (_, register, bit) in SHOWN.iter().filter(|bit| bit.0 == function) {
        *field(entry, *register) |= 1 << bit;
    }
    if matches!(function, 0x6 | 0x8000_0007) {
        // What is left is in one register.
        entry.ebx = 0;
        entry.ecx = 0;
        if function == 0x6 {
            entry.edx = 0;
        } else {
            entry.eax = 0;
        }
    }
}

/// Sets the size of a processor's whole state to what its parts that are left take (Intel SDM volume 1, 13.2).
pub(super) fn measure_state(table: &mut [CpuidEntry]) {
    /// The legacy area and the header.
    const LEAST: u32 = 576;
    let parts = table.iter().filter(|entry| entry.function == STATE && entry.index >= 2);
    // Bit 0 of `ecx`: a part that only the kernel uses, which is not in this sum.
    let ends = parts.filter(|part| part.ecx & 1 == 0).map(|part| part.eax.saturating_add(part.ebx));
    let largest = ends.max().unwrap_or(0).max(LEAST);
    let is_whole = |entry: &&mut CpuidEntry| {
        entry.function == STATE && entry.index == 0 && entry.flags & CPUID_SIGNIFICANT_INDEX != 0
    };
    for whole in table.iter_mut().filter(is_whole) {
        whole.ecx = largest;
    }
}

fn field(entry: &mut CpuidEntry, register: Register) -> &mut u32 {
    match register {
        Eax => &mut entry.eax,
        Ebx => &mut entry.ebx,
        Ecx => &mut entry.ecx,
        Edx => &mut entry.edx,
    }
}

const fn all_but(bit: u32) -> [u32; 31] {
    let mut bits = [0; 31];
    let (mut at, mut next) = (0, 0);
    while at < bits.len() {
        if next != bit {
            bits[at] = next;
            at += 1;
        }
        next += 1;
    }
    bits
}
