//! The processor's virtualization, as the host's operating system offers it: KVM on Linux.
//!
//! Three traits, from the outside in: a [`Hypervisor`] makes a [`Vm`], which has memory, interrupts and doorbells and
//! makes a [`Vcpu`] for each processor. Data goes in and comes out of [`Vcpu::run`]; nothing is called back, so whoever
//! runs a processor decides where its accesses go. What only some hosts can do is asked for and may be absent.
//!
//! Each method says who calls it and when, and how the hypervisors do it that differ from KVM on x86_64: KVM on arm64 and
//! Apple's HVF.
//!
//! May depend on: `memory`, `arch`, `vmm-sys`. Knows no device.

#[cfg(target_os = "linux")]
pub mod kvm;

use std::io;
use std::sync::Arc;

use snafu::Snafu;
use vmm_sys::Event;

use crate::arch::x86_64::{CpuidEntry, ModelSpecificRegister, ProcessorState};
use crate::memory::Regions;

/// Makes virtual machines.
pub trait Hypervisor: Send + Sync {
    /// The most processors that a machine of it can have. Asked before a machine is made.
    fn max_vcpus(&self) -> usize;

    /// What the host's x86_64 processor offers to a guest. `None` on another architecture.
    fn x86_64(&self) -> Option<&dyn X86_64Host>;

    /// Makes an empty machine. Called by the engine once for each launch; HVF has one machine for each process, which
    /// suits a monitor for each machine.
    fn create_vm(&self) -> Result<Arc<dyn Vm>, HypervisorError>;
}

/// What an x86_64 host tells of its processor.
pub trait X86_64Host {
    /// The leaves of CPUID that a guest may be shown, before any policy.
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, HypervisorError>;
}

/// A machine: memory, interrupt controllers, and what wakes devices. Used from any thread.
pub trait Vm: Send + Sync {
    /// Shows `memory` to the guest. Called once, before the first processor is made; the machine keeps the mappings
    /// alive for as long as it lives. KVM takes a slot for each region, HVF an `hv_vm_map`; both want whole pages of the
    /// host (16 KiB on Apple's), which regions of multiples of 2 MiB always are.
    fn map_memory(&self, memory: Regions) -> Result<(), HypervisorError>;

    /// Has the interrupt controller raise `interrupt` on its rising edge whenever `event` is notified. Called for each
    /// device before the processors run. KVM does it in the kernel (`irqfd`, on both architectures); HVF has nothing of
    /// the kind, so its machine waits for the events on a thread of its own and raises them (`hv_gic_set_spi`).
    fn bind_interrupt(&self, interrupt: u32, event: &Event) -> Result<(), HypervisorError>;

    /// Where a write of the guest's can notify an event without an exit to us. `None`: every write exits, and who runs
    /// the processor notifies the event itself (HVF).
    fn doorbells(&self) -> Option<&dyn Doorbells>;

    /// Makes processor `index`. Called on the thread that will run it and drop it: HVF binds a processor to the thread
    /// that makes it. All are made and set up before the first runs.
    fn create_vcpu(&self, index: u8) -> Result<Box<dyn Vcpu>, HypervisorError>;
}

/// What a processor begins with.
#[derive(Clone, Copy, Debug)]
pub enum VcpuSetup<'a> {
    /// An x86_64 processor.
    X86_64 {
        /// What it says of itself.
        cpuid: &'a [CpuidEntry],
        /// Registers that firmware would have set. What this host's processors do not have is left out.
        registers: &'a [ModelSpecificRegister],
        /// Where it starts. `None`: it waits until another one starts it by INIT and SIPI, which KVM sees to itself.
        state: Option<&'a ProcessorState>,
    },
}

/// Writes of the guest's that wake a device and exit to nobody.
pub trait Doorbells {
    /// Notifies `event` whenever the guest writes the 32-bit `value` at `address`. Called for each queue before the
    /// processors run. KVM: `ioeventfd`.
    fn bind_doorbell(&self, address: u64, value: u32, event: &Event) -> Result<(), HypervisorError>;
}

/// A processor. It stays on the thread that made it.
pub trait Vcpu {
    /// The rate of the guest's counter, where the hypervisor tells. Asked before [`Vcpu::set_up`], for x86_64's
    /// description of the processor; arm64 processors tell their guests themselves (`CNTFRQ_EL0`).
    fn counter_kilohertz(&self) -> Option<u32>;

    /// Gives it what it begins with. Called once.
    fn set_up(&mut self, setup: VcpuSetup<'_>) -> Result<(), HypervisorError>;

    /// What gets it out of [`Vcpu::run`]. Asked once, by its thread, and then used from any other.
    fn kicker(&self) -> Box<dyn Kicker>;

    /// Runs the guest until something is to be done. `entry` answers the exit before: [`Entry::Read`] after one that
    /// reads, [`Entry::Go`] otherwise.
    fn run(&mut self, entry: Entry) -> Result<Exit, HypervisorError>;

    /// The registers, as text for a report of the machine's end. Called with the guest not running.
    fn describe(&self) -> String;
}

/// Gets a processor out of the guest, from any thread.
pub trait Kicker: Send + Sync {
    /// Has the processor's next, or present, [`Vcpu::run`] return [`Exit::Kicked`] soon. A kick is never lost; several may
    /// count as one. One for a processor that is gone does nothing. KVM: `immediate_exit` and a signal; HVF:
    /// `hv_vcpus_exit`.
    fn kick(&self) -> io::Result<()>;
}

/// How a processor is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing was asked.
    Go,
    /// What the guest reads, as the little-endian value of the width that it asked for.
    Read(u64),
}

/// Why a processor came out of the guest. Widths are in bytes: 1, 2, 4 or 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads a port (x86_64). To be answered by [`Entry::Read`].
    PortRead {
        /// The port.
        port: u16,
        /// How much it reads.
        width: u8,
    },
    /// The guest writes a port (x86_64).
    PortWrite {
        /// The port.
        port: u16,
        /// How much it writes.
        width: u8,
        /// What.
        value: u32,
    },
    /// The guest reads an address without memory. To be answered by [`Entry::Read`].
    MmioRead {
        /// The address.
        address: u64,
        /// How much it reads.
        width: u8,
    },
    /// The guest writes an address without memory.
    MmioWrite {
        /// The address.
        address: u64,
        /// How much it writes.
        width: u8,
        /// What.
        value: u64,
    },
    /// Somebody kicked.
    Kicked,
    /// The guest has faulted beyond what a processor can handle (x86_64: a triple fault).
    Shutdown,
    /// The guest asked the hypervisor to end the machine (arm64: PSCI).
    SystemEvent(SystemEvent),
    /// The hypervisor cannot go on with this guest.
    Failed(Failure),
}

/// What a guest asks its hypervisor for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// To be switched off.
    PowerOff,
    /// To be reset.
    Reset,
    /// Its kernel has died.
    Crash,
}

/// Why a hypervisor gave a guest up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The processor refused the guest's state: the hardware's reason.
    Entry(u64),
    /// The hypervisor could not carry out an instruction (KVM's suberror 1) or ran into something else.
    Internal(u32),
    /// An exit that nobody knows: the hypervisor's number for it.
    Unknown(u32),
}

/// Why a hypervisor could not do something.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
#[non_exhaustive]
pub enum HypervisorError {
    /// It cannot be opened.
    #[snafu(display("cannot open {device}"))]
    Open {
        /// Its device.
        device: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// It is too old.
    #[snafu(display("{device} is too old: {lacks}"))]
    TooOld {
        /// Its device.
        device: &'static str,
        /// What it lacks.
        lacks: String,
    },
    /// The host refused a step.
    #[snafu(display("the host's virtualization refused to {step}"))]
    Refused {
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
}
