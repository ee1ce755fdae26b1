//! The device's interrupts: the register that says what happened, and the line that makes the driver read it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys::Event;

use super::registers::{interrupt, status};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Interrupt, Vector};

static NOT_RAISED: LogLimit = LogLimit::new();

/// The line to the guest's interrupt controller, edge-triggered.
///
/// An [`Event`] is one where the hypervisor takes interrupts from events (KVM's irqfd); elsewhere it is a call.
pub trait InterruptLine: Send + Sync {
    /// Interrupts the guest once. Called from any thread.
    fn raise(&self) -> io::Result<()>;
}

impl InterruptLine for Event {
    fn raise(&self) -> io::Result<()> {
        self.notify()
    }
}

/// The driver set `DRIVER_OK` and wants interrupts. A bit that neither `InterruptStatus` nor `Status` has.
const DRIVER_READY: u32 = 1 << 31;

/// Shared between the registers and the queues' threads; there is no lock, so neither ever waits for the other.
pub(super) struct MmioInterrupt {
    /// The bits of `InterruptStatus`, `DEVICE_NEEDS_RESET` and [`DRIVER_READY`]: together, so that nothing becomes
    /// pending beside a reset.
    state: AtomicU32,
    config_changes: AtomicU32,
    line: Box<dyn InterruptLine>,
}

impl MmioInterrupt {
    pub(super) fn new(line: Box<dyn InterruptLine>) -> Self {
        Self { state: AtomicU32::new(0), config_changes: AtomicU32::new(0), line }
    }

    /// From now on the driver is interrupted.
    pub(super) fn driver_is_ready(&self) {
        self.state.fetch_or(DRIVER_READY, Ordering::AcqRel);
    }

    /// Forgets what is pending. From now on the driver is not interrupted.
    pub(super) fn reset(&self) {
        self.state.store(0, Ordering::Release);
    }

    /// `InterruptStatus`.
    pub(super) fn pending(&self) -> u32 {
        self.state.load(Ordering::Acquire) & (interrupt::QUEUE | interrupt::CONFIG)
    }

    /// `InterruptACK`.
    pub(super) fn acknowledge(&self, handled: u32) {
        let handled = handled & (interrupt::QUEUE | interrupt::CONFIG);
        self.state.fetch_and(!handled, Ordering::AcqRel);
    }

    /// `DEVICE_NEEDS_RESET`, as a part of `Status`.
    pub(super) fn needs_reset_status(&self) -> u32 {
        self.state.load(Ordering::Acquire) & status::DEVICE_NEEDS_RESET
    }

    /// How often the device said that its configuration changed.
    pub(super) fn config_changes(&self) -> u32 {
        self.config_changes.load(Ordering::Acquire)
    }

    /// Says in the register what happened, then raises the line: whoever is interrupted finds the bit.
    ///
    /// The line is raised also where the bit was set before. The driver might have read it already and be about to
    /// acknowledge it, without having looked at its queues since; and an edge that came while the guest had no
    /// handler or had the line masked is lost, which leaves a bit that nobody acknowledges: were it to hold back
    /// later edges, the device would be mute until a reset. The price is now and then an interrupt that finds
    /// nothing, where two queues have something within the microseconds that the driver takes to acknowledge; for a
    /// single queue the event index prevents that.
    fn raise(&self, bits: u32) -> io::Result<()> {
        let add = |state| (state & DRIVER_READY != 0).then_some(state | bits);
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, add) {
            Ok(_) => self.line.raise(),
            // The driver reads everything anew when it becomes ready.
            Err(_) => Ok(()),
        }
    }
}

impl Interrupt for MmioInterrupt {
    fn trigger(&self, vector: Vector) -> io::Result<()> {
        match vector {
            Vector::Queue(_) => self.raise(interrupt::QUEUE),
            Vector::Config => {
                self.config_changes.fetch_add(1, Ordering::AcqRel);
                self.raise(interrupt::CONFIG)
            }
        }
    }

    /// The whole device needs it, and says so by an interrupt of its configuration (virtio 1.2, 2.1.2).
    fn needs_reset(&self, queue: u16) {
        if let Err(error) = self.raise(interrupt::CONFIG | status::DEVICE_NEEDS_RESET)
            && let Some(left_out) = NOT_RAISED.permit()
        {
            tracing::error!(queue, %error, left_out, "cannot tell the guest that its device needs a reset");
        }
    }
}
