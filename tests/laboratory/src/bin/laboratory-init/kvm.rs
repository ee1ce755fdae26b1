//! A VM that does nothing, and that is there for as long as the laboratory.
//!
//! KVM patches the scheduler's code with its first VM and again after its last one (the static key
//! `preempt_notifier_key`). Whoever emulates the laboratory's processors may run what is just being patched, which a
//! processor never does: now and then the laboratory's own kernel died so, under tests that make one VM after another.
//! With one that stays there is no first and no last one.
#![expect(unsafe_code, reason = "KVM is used through ioctl(2)")]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{Read, Write, stdout};
use std::process::{Command, Stdio};
use std::thread::park;

use laboratory::MACHINE;
use rustix::ioctl::{IntegerSetter, Opcode, ioctl, opcode};

use crate::failure::{Context, Result};
use crate::system::run;

/// The word that has us hold a VM.
pub(crate) const HOLD: &str = "hold";

/// `KVM_CREATE_VM` (Documentation/virt/kvm/api.rst, 4.2): its argument is the kind of machine, 0 the usual one.
const CREATE_VM: Opcode = opcode::none(0xAE, 0x01);

/// Loads KVM, and has a process of its own hold the VM: a test that loads KVM anew can end it.
pub(crate) fn load() -> Result<()> {
    run(Command::new("/sbin/modprobe").arg("kvm-amd"))?;
    let mut holder = Command::new("/proc/self/exe");
    let mut holder = holder.arg(HOLD).stdout(Stdio::piped()).spawn().context("start what holds a VM")?;
    fs::write(MACHINE, holder.id().to_string()).context("tell who holds a VM")?;
    let mut word = [0; HOLD.len()];
    let heard = holder.stdout.take().map_or(Ok(()), |mut stdout| stdout.read_exact(&mut word));
    heard.context("hear of the VM that stays")
}

/// Makes the VM, says so, and stays. Comes back only if it cannot.
pub(crate) fn hold() -> Result<Infallible> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm").context("open /dev/kvm")?;
    // SAFETY: this number of /dev/kvm is KVM_CREATE_VM, which takes an integer by value and touches no memory of ours.
    // Nobody knows the descriptor that it makes, so it is closed with the process.
    unsafe { ioctl(&kvm, IntegerSetter::<CREATE_VM>::new_usize(0)) }.context("make a VM that stays")?;
    stdout().write_all(HOLD.as_bytes()).and_then(|()| stdout().flush()).context("say that there is a VM")?;
    loop {
        park();
    }
}
