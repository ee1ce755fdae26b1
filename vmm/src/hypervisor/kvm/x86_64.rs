//! What KVM needs on x86_64 only.

use std::fmt::Write;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry,
    kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{VcpuFd, VmFd};
use snafu::ResultExt;

use super::{Kvm, system};
use crate::arch::x86_64::{
    CpuidEntry, DescriptorTable, IDENTITY_MAP_PAGE, ModelSpecificRegister, ProcessorState, Registers,
    Segment, SpecialRegisters, TASK_STATE_PAGES,
};
use crate::hypervisor::{HypervisorError, RefusedSnafu, VcpuSetup, X86_64Host};

impl X86_64Host for Kvm {
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, HypervisorError> {
        let table = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(system);
        let table = table.context(RefusedSnafu { step: "tell what its processor offers" })?;
        Ok(table.as_slice().iter().map(from_kvm).collect())
    }
}

fn from_kvm(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: _ } = *entry;
    CpuidEntry { function, index, flags, eax, ebx, ecx, edx }
}

fn to_kvm(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
    let CpuidEntry { function, index, flags, eax, ebx, ecx, edx } = *entry;
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
}

/// Before the first processor. Intel's processors without unrestricted guests want the pages; others ignore them.
pub(super) fn prepare_vm(vm: &VmFd) -> Result<(), HypervisorError> {
    vm.set_identity_map_address(IDENTITY_MAP_PAGE)
        .map_err(system)
        .context(RefusedSnafu { step: "place the identity map" })?;
    let pages = usize::try_from(TASK_STATE_PAGES).unwrap_or(usize::MAX);
    vm.set_tss_address(pages).map_err(system).context(RefusedSnafu { step: "place the task state" })?;
    // With the two interrupt controllers of old, of which the tables say nothing and every line begins masked; without
    // a timer of old.
    vm.create_irq_chip().map_err(system).context(RefusedSnafu { step: "make the interrupt controllers" })
}

pub(super) fn set_up(vcpu: &VcpuFd, setup: VcpuSetup<'_>) -> Result<(), HypervisorError> {
    let VcpuSetup::X86_64 { cpuid, registers, state } = setup;
    let table: Vec<_> = cpuid.iter().map(to_kvm).collect();
    let table = CpuId::from_entries(&table)
        .map_err(|_| std::io::ErrorKind::InvalidInput.into())
        .context(RefusedSnafu { step: "take the processor's description" })?;
    vcpu.set_cpuid2(&table).map_err(system).context(RefusedSnafu { step: "describe the processor" })?;
    set_model_specific(vcpu, registers)?;
    if let Some(state) = state {
        set_state(vcpu, state).map_err(system).context(RefusedSnafu { step: "set the registers" })?;
    }
    Ok(())
}

fn set_model_specific(vcpu: &VcpuFd, registers: &[ModelSpecificRegister]) -> Result<(), HypervisorError> {
    let refused = RefusedSnafu { step: "set the model-specific registers" };
    // One by one: KVM stops at the first that this host does not know.
    for ModelSpecificRegister { index, value } in registers.iter().take(KVM_MAX_MSR_ENTRIES).copied() {
        let entry = kvm_msr_entry { index, data: value, ..kvm_msr_entry::default() };
        let list = Msrs::from_entries(&[entry])
            .map_err(|_| std::io::ErrorKind::InvalidInput.into())
            .context(refused)?;
        if vcpu.set_msrs(&list).map_err(system).context(refused)? == 0 {
            tracing::debug!(index, "the host does not know a model-specific register");
        }
    }
    Ok(())
}

fn set_state(vcpu: &VcpuFd, state: &ProcessorState) -> Result<(), kvm_ioctls::Error> {
    let mut special = vcpu.get_sregs()?;
    place_special(&mut special, &state.special);
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&general(&state.registers))
}

fn general(registers: &Registers) -> kvm_regs {
    let Registers {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = *registers;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn place_special(kvm: &mut kvm_sregs, registers: &SpecialRegisters) {
    let SpecialRegisters { cs, ds, es, fs, gs, ss, tr, ldtr, gdtr, idtr, cr0, cr3, cr4, efer } = *registers;
    [kvm.cs, kvm.ds, kvm.es] = [cs, ds, es].map(segment);
    [kvm.fs, kvm.gs, kvm.ss] = [fs, gs, ss].map(segment);
    [kvm.tr, kvm.ldt] = [tr, ldtr].map(segment);
    [kvm.gdt, kvm.idt] = [gdtr, idtr].map(table);
    [kvm.cr0, kvm.cr3, kvm.cr4, kvm.efer] = [cr0, cr3, cr4, efer];
}

fn segment(segment: Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.is_present.into(),
        dpl: segment.privilege,
        db: segment.is_32_bit.into(),
        s: segment.is_code_or_data.into(),
        l: segment.is_64_bit.into(),
        g: segment.is_in_pages.into(),
        unusable: segment.is_unusable.into(),
        ..kvm_segment::default()
    }
}

fn table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..kvm_dtable::default() }
}

/// The registers that tell most of a processor that came to grief.
pub(super) fn describe(vcpu: &VcpuFd) -> String {
    let mut text = String::new();
    if let Ok(registers) = vcpu.get_regs() {
        let kvm_regs { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, .. } = registers;
        let _ = write!(
            text,
            "rip {rip:#x} rsp {rsp:#x} rflags {rflags:#x} rax {rax:#x} rbx {rbx:#x} rcx {rcx:#x} rdx {rdx:#x} \
             rsi {rsi:#x} rdi {rdi:#x} rbp {rbp:#x}"
        );
    }
    if let Ok(special) = vcpu.get_sregs() {
        let kvm_sregs { cr0, cr2, cr3, cr4, efer, .. } = special;
        let _ = write!(
            text,
            " cs {:#x} cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x} efer {efer:#x}",
            special.cs.selector
        );
    }
    text
}
