//! A machine of KVM's.

use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::sync::{Arc, OnceLock};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, VmFd};
use snafu::ResultExt;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys::Event;
use vmm_sys_util::eventfd::EventFd;

use super::system;
use super::vcpu::KvmVcpu;
use crate::hypervisor::{Doorbells, HypervisorError, RefusedSnafu, Vcpu, Vm};
use crate::memory::Regions;

pub(super) struct KvmVm {
    vm: VmFd,
    memory: Arc<OnceLock<Regions>>,
}

impl KvmVm {
    /// Makes what the guest's architecture needs before its first processor.
    pub(super) fn new(vm: VmFd) -> Result<Self, HypervisorError> {
        #[cfg(target_arch = "x86_64")]
        super::x86_64::prepare_vm(&vm)?;
        Ok(Self { vm, memory: Arc::default() })
    }
}

impl Vm for KvmVm {
    fn map_memory(&self, memory: Regions) -> Result<(), HypervisorError> {
        let refused = RefusedSnafu { step: "map the guest's memory" };
        let twice = || io::Error::new(io::ErrorKind::AlreadyExists, "it is mapped already");
        self.memory.set(memory).map_err(|_| twice()).context(refused)?;
        let regions = self.memory.get().into_iter().flat_map(GuestMemoryBackend::iter);
        for (slot, region) in (0u32..).zip(regions) {
            let host =
                region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other).context(refused)?;
            let GuestAddress(guest_phys_addr) = region.start_addr();
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr,
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region's mapping lives in `self.memory`, which is never replaced. Only processors make use of
            // it, and each holds it, too. What the guest writes there is read through volatile accesses only.
            #[expect(unsafe_code, reason = "the guest writes to memory of ours")]
            let mapped = unsafe { self.vm.set_user_memory_region(slot) };
            mapped.map_err(system).context(refused)?;
        }
        Ok(())
    }

    fn bind_interrupt(&self, interrupt: u32, event: &Event) -> Result<(), HypervisorError> {
        let refused = RefusedSnafu { step: "bind an interrupt" };
        let event = eventfd(event).context(refused)?;
        self.vm.register_irqfd(&event, interrupt).map_err(system).context(refused)
    }

    fn doorbells(&self) -> Option<&dyn Doorbells> {
        Some(self)
    }

    fn create_vcpu(&self, index: u8) -> Result<Box<dyn Vcpu>, HypervisorError> {
        let vcpu = super::retry(|| self.vm.create_vcpu(index.into()));
        let vcpu = vcpu.context(RefusedSnafu { step: "make a processor" })?;
        Ok(Box::new(KvmVcpu::new(vcpu, self.vm.run_size(), Arc::clone(&self.memory))?))
    }
}

impl Doorbells for KvmVm {
    fn bind_doorbell(&self, address: u64, value: u32, event: &Event) -> Result<(), HypervisorError> {
        let refused = RefusedSnafu { step: "bind a doorbell" };
        let event = eventfd(event).context(refused)?;
        let address = IoEventAddress::Mmio(address);
        self.vm.register_ioevent(&event, &address, value).map_err(system).context(refused)
    }
}

/// The same event as KVM's crate wants it. KVM keeps the event itself, so this handle may be closed afterwards.
fn eventfd(event: &Event) -> io::Result<EventFd> {
    let descriptor = event.as_fd().try_clone_to_owned()?.into_raw_fd();
    // SAFETY: the descriptor is a duplicate of an eventfd, made just now and nobody else's.
    #[expect(unsafe_code, reason = "the crate has no safe way from one of ours")]
    Ok(unsafe { EventFd::from_raw_fd(descriptor) })
}
