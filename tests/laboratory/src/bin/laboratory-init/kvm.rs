//! A VM that does nothing, and that is there for as long as the laboratory.
//!
//! KVM patches the scheduler's code with its first VM and again after its last one (the static key
//! `preempt_notifier_key`). Whoever emulates the laboratory's processors may run what is just being patched, which a
//! processor never does: now and then the laboratory's own kernel died so, under tests that make one VM after another.
//! With one that stays there is no first and no last one.
#![expect(unsafe_code, reason = "KVM is used through ioctl(2)")]

use std::fs::File;

use rustix::ioctl::{IntegerSetter, ioctl};

use crate::failure::{Context, Result};

/// `KVM_CREATE_VM` (Documentation/virt/kvm/api.rst, 4.2): its argument is the kind of machine, 0 the usual one.
const CREATE_VM: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0xAE, 0x01);

/// Makes the VM. Its descriptor is told to nobody: it is closed when process 1 ends, and with it everything.
pub(crate) fn hold_a_machine() -> Result<()> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("open /dev/kvm")?;
    // SAFETY: this number of /dev/kvm is KVM_CREATE_VM, which takes an integer by value and touches no memory of ours.
    unsafe { ioctl(&kvm, IntegerSetter::<CREATE_VM>::new_usize(0)) }.context("make a VM that stays")
}
