//! A few instructions on the KVM of this host. They run on every KVM, also where a kernel does not.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys::{Event, Interest, Poller};

use super::Kvm;
use crate::arch::x86_64::{
    BootData, CpuidPolicy, KERNEL_START, MemoryMap, ProcessorState, entry_state, initial_registers,
};
use crate::hypervisor::{Entry, Exit, Hypervisor, Vcpu, VcpuSetup, Vm, X86_64Host};
use crate::memory::fresh_regions;

/// An address that page tables map and no memory has.
const DEVICE: u64 = 0x3000_0000;

/// A machine of 2 MiB with this code where a kernel would begin. `None`, and says so: there is no KVM here.
fn machine(code: &[u8]) -> Option<(Arc<dyn Vm>, Box<dyn Vcpu>)> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let map = MemoryMap::new(2 << 20);
    let memory = fresh_regions(&map.memory()).unwrap();
    let data = BootData { memory: &map, cpus: 1, devices: &[], command_line: "", initramfs: 0..0 };
    for piece in data.place().unwrap() {
        memory.write_slice(&piece.bytes, GuestAddress(piece.address)).unwrap();
    }
    memory.write_slice(code, GuestAddress(KERNEL_START)).unwrap();
    let vm = kvm.create_vm().unwrap();
    vm.map_memory(memory).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let policy =
        CpuidPolicy { cpu: 0, cpus: 1, tsc_kilohertz: vcpu.counter_kilohertz().unwrap_or(0), nested: false };
    let cpuid = policy.apply(&kvm.supported_cpuid().unwrap());
    let state: ProcessorState = entry_state(KERNEL_START, 0);
    let registers = initial_registers(None);
    let setup = VcpuSetup::X86_64 { cpuid: &cpuid, registers: &registers, state: Some(&state) };
    vcpu.set_up(setup).unwrap();
    Some((vm, vcpu))
}

fn with(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

const DEVICE_BYTES: [u8; 4] = [0, 0, 0, 0x30];

#[test]
fn what_a_guest_reads_is_what_it_was_answered() {
    let code = with(&[
        &[0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
        &[0xec, 0x04, 0x01, 0xee], // in al, dx; add al, 1; out dx, al
        &[0x8b, 0x04, 0x25],
        &DEVICE_BYTES, // mov eax, [DEVICE]
        &[0xff, 0xc0], // inc eax
        &[0x89, 0x04, 0x25],
        &DEVICE_BYTES, // mov [DEVICE], eax
        &[0xf4],       // hlt
    ]);
    let Some((_vm, mut vcpu)) = machine(&code) else { return };
    assert_eq!(vcpu.run(Entry::Go).unwrap(), Exit::PortRead { port: 0x3f8, width: 1 });
    let exit = vcpu.run(Entry::Read(0x41)).unwrap();
    assert_eq!(exit, Exit::PortWrite { port: 0x3f8, width: 1, value: 0x42 });
    assert_eq!(vcpu.run(Entry::Go).unwrap(), Exit::MmioRead { address: DEVICE, width: 4 });
    let exit = vcpu.run(Entry::Read(0x0102_03ff)).unwrap();
    assert_eq!(exit, Exit::MmioWrite { address: DEVICE, width: 4, value: 0x0102_0400 });
}

#[test]
fn each_unit_of_a_string_instruction_is_told() {
    let code = with(&[
        &[0x66, 0xba, 0xf8, 0x03],       // mov dx, 0x3f8
        &[0xbf, 0x00, 0x00, 0x18, 0x00], // mov edi, 0x180000
        &[0xb9, 0x03, 0x00, 0x00, 0x00], // mov ecx, 3
        &[0xf3, 0x6c],                   // rep insb
        &[0xbe, 0x00, 0x00, 0x18, 0x00], // mov esi, 0x180000
        &[0xb9, 0x03, 0x00, 0x00, 0x00], // mov ecx, 3
        &[0xf3, 0x6e],                   // rep outsb
        &[0xf4],                         // hlt
    ]);
    let Some((_vm, mut vcpu)) = machine(&code) else { return };
    let (mut entry, mut written) = (Entry::Go, Vec::new());
    let mut letters = b"abc".iter();
    while written.len() < 3 {
        entry = match vcpu.run(entry).unwrap() {
            Exit::PortRead { port: 0x3f8, width: 1 } => Entry::Read((*letters.next().unwrap()).into()),
            Exit::PortWrite { port: 0x3f8, width: 1, value } => {
                written.push(u8::try_from(value).unwrap());
                Entry::Go
            }
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(written, b"abc");
}

#[test]
fn a_kick_gets_a_processor_out_of_the_guest_and_is_never_lost() {
    // jmp to itself
    let Some((_vm, mut vcpu)) = machine(&[0xeb, 0xfe]) else { return };
    let kicker = vcpu.kicker();
    kicker.kick().unwrap();
    kicker.kick().unwrap();
    assert_eq!(vcpu.run(Entry::Go).unwrap(), Exit::Kicked);
    // Whenever it comes, before the entry or in the guest.
    let kicker = std::thread::spawn(move || {
        kicker.kick().unwrap();
        kicker
    });
    assert_eq!(vcpu.run(Entry::Go).unwrap(), Exit::Kicked);
    let kicker = kicker.join().unwrap();
    drop(vcpu);
    kicker.kick().unwrap();
}

#[test]
fn a_fault_that_nobody_handles_ends_the_guest_and_its_registers_are_told() {
    // ud2, without a table of handlers
    let Some((_vm, mut vcpu)) = machine(&[0x0f, 0x0b]) else { return };
    assert_eq!(vcpu.run(Entry::Go).unwrap(), Exit::Shutdown);
    assert!(vcpu.describe().contains("rip 0x100000"), "{}", vcpu.describe());
}

#[test]
fn a_doorbell_notifies_its_event_and_exits_to_nobody() {
    let code = with(&[
        &[0xb8, 0x02, 0x00, 0x00, 0x00], // mov eax, 2
        &[0x89, 0x04, 0x25],
        &DEVICE_BYTES, // mov [DEVICE], eax
        &[0xff, 0xc0], // inc eax
        &[0x89, 0x04, 0x25],
        &DEVICE_BYTES, // mov [DEVICE], eax
        &[0xf4],       // hlt
    ]);
    let Some((vm, mut vcpu)) = machine(&code) else { return };
    let event = Event::new().unwrap();
    vm.doorbells().unwrap().bind_doorbell(DEVICE, 2, &event).unwrap();
    let exit = vcpu.run(Entry::Go).unwrap();
    assert_eq!(exit, Exit::MmioWrite { address: DEVICE, width: 4, value: 3 });
    let mut poller = Poller::new().unwrap();
    poller.add(&event, 0, Interest::READ).unwrap();
    assert_eq!(poller.wait(Some(std::time::Duration::from_secs(10))).unwrap().count(), 1);
}
