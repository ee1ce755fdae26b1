//! KVM, the virtualization of Linux.

mod run_area;
mod vcpu;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use kvm_ioctls::Cap;
use snafu::{ResultExt, ensure};

use super::{Hypervisor, HypervisorError, OpenSnafu, RefusedSnafu, TooOldSnafu, Vm, X86_64Host};
use vm::KvmVm;

/// Where the kernel offers it.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of the interface there is (Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;

/// What is used without asking again, and how it is called.
const WANTED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "memory of user space"),
    (Cap::Irqchip, "interrupt controllers in the kernel"),
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Ioeventfd, "doorbells by eventfd"),
    (Cap::ImmediateExit, "immediate exits (Linux 4.12)"),
];

/// KVM, open and fit.
pub struct Kvm {
    kvm: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self, HypervisorError> {
        let descriptor =
            kvm_ioctls::Kvm::open_with_cloexec(true).map_err(system).context(OpenSnafu { device: DEVICE })?;
        // SAFETY: the descriptor was opened just now and is nobody else's.
        #[expect(unsafe_code, reason = "the crate's safe constructor loses the reason of a failure")]
        let kvm = unsafe { kvm_ioctls::Kvm::from_raw_fd(descriptor) };
        let version = kvm.get_api_version();
        let lacks = format!("its interface has version {version} instead of {API_VERSION}");
        ensure!(version == API_VERSION, TooOldSnafu { device: DEVICE, lacks });
        for (capability, name) in WANTED {
            ensure!(
                kvm.check_extension(capability),
                TooOldSnafu { device: DEVICE, lacks: format!("it lacks {name}") }
            );
        }
        Ok(Self { kvm })
    }
}

impl Hypervisor for Kvm {
    fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    fn x86_64(&self) -> Option<&dyn X86_64Host> {
        #[cfg(target_arch = "x86_64")]
        return Some(self);
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>, HypervisorError> {
        let vm = retry(|| self.kvm.create_vm()).context(RefusedSnafu { step: "make a machine" })?;
        Ok(Arc::new(KvmVm::new(vm)?))
    }
}

/// KVM's errors as everybody else's.
fn system(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// Making a machine or a processor takes locks that a signal interrupts.
fn retry<T>(mut call: impl FnMut() -> Result<T, kvm_ioctls::Error>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result.map_err(system),
        }
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests;
