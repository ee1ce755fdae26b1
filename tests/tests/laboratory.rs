//! What the laboratory must be able to do before anything else is tried in it: `/dev/kvm` runs 64-bit code, and says how
//! it stopped. Nothing of the product has a part in this.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_tests::skip;

/// A large page, and the first thing in it.
const MEMORY: usize = 2 << 20;
const CODE: u64 = 0x8000;

/// Three levels of page tables, each a page: the guest's memory where it is.
const TABLES: [u64; 3] = [0x1000, 0x2000, 0x3000];

/// `rax = 0x1_2345_6789 * 3` by 64-bit registers, a byte to a port, and the end.
const PROGRAM: [u8; 21] = [
    0x48, 0xb8, 0x89, 0x67, 0x45, 0x23, 0x01, 0x00, 0x00, 0x00, // mov rax, 0x123456789
    0x48, 0x8d, 0x1c, 0x40, // lea rbx, [rax + rax * 2]
    0xb0, 0x2a, // mov al, 42
    0xe6, 0x10, // out 0x10, al
    0x48, 0x93, // xchg rax, rbx
    0xf4, // hlt
];

#[test]
fn kvm_runs_64_bit_code_until_it_halts() {
    if !vmm_tests::in_laboratory() {
        skip!("`cargo lab test` runs it in the laboratory");
    }
    let kvm = Kvm::new().expect("/dev/kvm opens");
    assert_eq!(kvm.get_api_version(), 12);
    assert!(kvm.check_extension(Cap::UserMemory) && kvm.check_extension(Cap::Irqfd));
    let vm = kvm.create_vm().expect("a machine");
    let memory = memory_of(&vm);
    let mut vcpu = vm.create_vcpu(0).expect("a processor");
    // Without, it has no long mode.
    let features = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("features");
    vcpu.set_cpuid2(&features).expect("features");
    enter_long_mode(&vcpu, &memory);

    // It writes to its port, and halts.
    match vcpu.run().expect("the processor runs") {
        VcpuExit::IoOut(0x10, [42]) => {}
        exit => panic!("not a byte to a port, but {exit:?}"),
    }
    match vcpu.run().expect("the processor runs on") {
        VcpuExit::Hlt => {}
        exit => panic!("no halt, but {exit:?}"),
    }
    let registers = vcpu.get_regs().expect("registers");
    assert_eq!(registers.rax, 0x1_2345_6789 * 3);
    assert_eq!(registers.rip, CODE + PROGRAM.len() as u64);
}

#[expect(unsafe_code, reason = "KVM takes memory by its address")]
fn memory_of(vm: &VmFd) -> GuestMemoryMmap<()> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0)).expect("an address") as u64,
    };
    // SAFETY: the mapping is as large as it says, and lives as long as the test, which runs the only processor.
    unsafe { vm.set_user_memory_region(region) }.expect("KVM takes the memory");
    memory
}

/// As a kernel finds it (AMD64 Architecture Programmer's Manual, volume 2, 14.6).
fn enter_long_mode(vcpu: &VcpuFd, memory: &GuestMemoryMmap<()>) {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    for (table, entry) in TABLES.into_iter().zip([
        TABLES[1] | PRESENT_WRITABLE,
        TABLES[2] | PRESENT_WRITABLE,
        PRESENT_WRITABLE | LARGE,
    ]) {
        memory.write_obj(entry, GuestAddress(table)).expect("a page table");
    }
    memory.write_slice(&PROGRAM, GuestAddress(CODE)).expect("a program");

    let mut registers = vcpu.get_sregs().expect("special registers");
    registers.cr3 = TABLES[0];
    registers.cr4 |= 1 << 5; // PAE
    registers.cr0 |= 1 | 1 << 31; // protected mode, paging
    registers.efer |= 1 << 8 | 1 << 10; // long mode enabled and active
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..kvm_segment::default()
    };
    registers.cs = kvm_segment { selector: 8, type_: 11, l: 1, db: 0, ..data };
    [registers.ds, registers.es, registers.ss] = [data; 3];
    vcpu.set_sregs(&registers).expect("special registers");
    let start = kvm_regs { rip: CODE, rflags: 2, ..kvm_regs::default() };
    vcpu.set_regs(&start).expect("registers");
}
