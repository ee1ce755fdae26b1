//! A processor of KVM's.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::VcpuFd;
use snafu::ResultExt;
use vmm_sys::thread_wakeup::{Wakeable, Waker};

use super::run_area::RunArea;
use crate::hypervisor::{
    Entry, Exit, Failure, HypervisorError, Kicker, RefusedSnafu, SystemEvent, Vcpu, VcpuSetup,
};
use crate::memory::Regions;

/// `KVM_RUN`, `_IO(KVMIO, 0x80)`.
const KVM_RUN: libc::Ioctl = 0xae80;

/// `KVM_INTERNAL_ERROR_DELIVERY_EV`: an exit that KVM cannot handle while an event is being delivered to the guest.
const EVENT_IN_DELIVERY: u32 = 3;

/// For how long the guest is entered again and again when KVM takes an event for one in delivery. See
/// [`KvmVcpu::run`]. A processor that has just left its idleness has no tick yet, and waits for the next timer that is set.
const LONGEST_REPETITION: Duration = Duration::from_secs(10);

/// Where the bytes of an access to memory lie.
const MMIO_DATA: usize = offset_of!(kvm_run, __bindgen_anon_1) + size_of::<u64>();

pub(super) struct KvmVcpu {
    vcpu: VcpuFd,
    area: Arc<RunArea>,
    thread: Wakeable,
    unanswered: Option<Access>,
    /// A string instruction moves several units in one exit of KVM's; each is one of ours.
    ports: Option<PortUnits>,
    /// What the guest runs in. It stays mapped for as long as a processor can run.
    _memory: Arc<OnceLock<Regions>>,
}

/// Where the answer to a read is to be put.
#[derive(Clone, Copy)]
struct Access {
    offset: usize,
    width: u8,
}

/// What of a string instruction is still to be told.
#[derive(Clone, Copy)]
struct PortUnits {
    port: u16,
    width: u8,
    input: bool,
    left: u32,
    offset: usize,
}

impl KvmVcpu {
    pub(super) fn new(
        vcpu: VcpuFd,
        run_size: usize,
        memory: Arc<OnceLock<Regions>>,
    ) -> Result<Self, HypervisorError> {
        let area = RunArea::map(&vcpu, run_size).context(RefusedSnafu { step: "map a processor's page" })?;
        let thread = Wakeable::this_thread();
        Ok(Self { vcpu, area: Arc::new(area), thread, unanswered: None, ports: None, _memory: memory })
    }

    /// Enters the guest. `false`: it was interrupted.
    fn enter(&self) -> io::Result<bool> {
        loop {
            let processor = self.vcpu.as_raw_fd();
            // SAFETY: the descriptor is a processor's; the request takes no argument. The guest can write only to the
            // memory that the machine was given, and KVM to the page that `area` maps.
            #[expect(unsafe_code, reason = "the crate's call borrows the page for its answer")]
            let result = unsafe { libc::ioctl(processor, KVM_RUN, 0) };
            if result >= 0 {
                return Ok(true);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => return Ok(false),
                // The processor waited to be started and was woken (KVM_MP_STATE_UNINITIALIZED).
                Some(libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
    }

    fn next_unit(&mut self) -> Option<Exit> {
        let units = self.ports.as_mut()?;
        if units.left == 0 {
            self.ports = None;
            return None;
        }
        let PortUnits { port, width, input, offset, .. } = *units;
        units.left -= 1;
        units.offset += usize::from(width);
        if input {
            self.unanswered = Some(Access { offset, width });
            return Some(Exit::PortRead { port, width });
        }
        // No wider than four bytes.
        let value = u32::try_from(self.area.read(offset, width.min(4))).unwrap_or_default();
        Some(Exit::PortWrite { port, width, value })
    }

    #[expect(
        unsafe_code,
        reason = "the reason of the exit says which of the union's members the kernel wrote"
    )]
    fn exit(&mut self) -> Exit {
        let run = self.area.get();
        let detail = &run.__bindgen_anon_1;
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: this member belongs to this reason; any bytes of it are a value of its type.
                let io = unsafe { detail.io };
                self.ports = Some(PortUnits {
                    port: io.port,
                    width: io.size,
                    input: u32::from(io.direction) == KVM_EXIT_IO_IN,
                    left: io.count,
                    offset: usize::try_from(io.data_offset).unwrap_or(usize::MAX),
                });
                self.next_unit().unwrap_or(Exit::Failed(Failure::Unknown(KVM_EXIT_IO)))
            }
            KVM_EXIT_MMIO => {
                // SAFETY: as above.
                let mmio = unsafe { detail.mmio };
                let width = u8::try_from(mmio.len.min(8)).unwrap_or(8);
                let address = mmio.phys_addr;
                if mmio.is_write == 0 {
                    self.unanswered = Some(Access { offset: MMIO_DATA, width });
                    Exit::MmioRead { address, width }
                } else {
                    Exit::MmioWrite { address, width, value: self.area.read(MMIO_DATA, width) }
                }
            }
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            // SAFETY: as above.
            KVM_EXIT_SYSTEM_EVENT => match unsafe { detail.system_event.type_ } {
                KVM_SYSTEM_EVENT_SHUTDOWN => Exit::SystemEvent(SystemEvent::PowerOff),
                KVM_SYSTEM_EVENT_RESET => Exit::SystemEvent(SystemEvent::Reset),
                KVM_SYSTEM_EVENT_CRASH => Exit::SystemEvent(SystemEvent::Crash),
                _ => Exit::Failed(Failure::Unknown(KVM_EXIT_SYSTEM_EVENT)),
            },
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above.
                Exit::Failed(Failure::Entry(unsafe { detail.fail_entry.hardware_entry_failure_reason }))
            }
            // SAFETY: as above.
            KVM_EXIT_INTERNAL_ERROR => Exit::Failed(Failure::Internal(unsafe { detail.internal.suberror })),
            KVM_EXIT_INTR => Exit::Kicked,
            other => Exit::Failed(Failure::Unknown(other)),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn counter_kilohertz(&self) -> Option<u32> {
        #[cfg(target_arch = "x86_64")]
        return self.vcpu.get_tsc_khz().ok().filter(|rate| *rate != 0);
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    fn set_up(&mut self, setup: VcpuSetup<'_>) -> Result<(), HypervisorError> {
        #[cfg(target_arch = "x86_64")]
        return super::x86_64::set_up(&self.vcpu, setup);
        #[cfg(not(target_arch = "x86_64"))]
        match setup {
            VcpuSetup::X86_64 { .. } => {
                let other = std::io::Error::from(std::io::ErrorKind::Unsupported);
                Err(other).context(RefusedSnafu { step: "set up a processor of another architecture" })
            }
        }
    }

    fn kicker(&self) -> Box<dyn Kicker> {
        Box::new(KvmKicker { area: Arc::clone(&self.area), waker: self.thread.waker() })
    }

    fn run(&mut self, entry: Entry) -> Result<Exit, HypervisorError> {
        if let Some(Access { offset, width }) = self.unanswered.take()
            && let Entry::Read(value) = entry
        {
            self.area.write(offset, width, value);
        }
        if let Some(exit) = self.next_unit() {
            return Ok(exit);
        }
        // On an emulated AMD processor, an access to a device soon after a page fault of the guest's looks to KVM as
        // if the fault were still being delivered: it looks at the event's type, which stays, and not at whether the
        // event is valid. The guest has not gone on, so it makes the access again, and the next interrupt has taken the
        // fault's place. On hardware nothing but a broken guest comes here, which ends here all the same.
        let mut repeated_from = None;
        loop {
            if !self.enter().context(RefusedSnafu { step: "run the guest" })? {
                // A kick that comes after this finds its processor out of the guest, and kicks it out of the next entry.
                self.area.set_immediate_exit(false);
                return Ok(Exit::Kicked);
            }
            match self.exit() {
                Exit::Failed(Failure::Internal(EVENT_IN_DELIVERY))
                    if repeated_from.get_or_insert_with(Instant::now).elapsed() < LONGEST_REPETITION => {}
                exit => return Ok(exit),
            }
        }
    }

    fn describe(&self) -> String {
        #[cfg(target_arch = "x86_64")]
        return super::x86_64::describe(&self.vcpu);
        #[cfg(not(target_arch = "x86_64"))]
        String::new()
    }
}

struct KvmKicker {
    area: Arc<RunArea>,
    waker: Waker,
}

impl Kicker for KvmKicker {
    fn kick(&self) -> io::Result<()> {
        // Seen by an entry that is still to come; the signal ends one that is under way.
        self.area.set_immediate_exit(true);
        self.waker.wake()
    }
}
