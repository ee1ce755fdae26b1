//! Devices shown to the guest as registers in its physical memory: virtio over MMIO (virtio 1.2, 4.2).
//!
//! Whoever runs the guest gives each device a window of [`WINDOW_SIZE`] bytes and an interrupt line, and passes on what
//! its processors do in that window, from whichever thread. It may take the notifications of queues off our hands,
//! as KVM's ioeventfd does: a write of the number `n` to [`QUEUE_NOTIFY`] is a notification of the n-th of the
//! [kicks](MmioTransport::kicks), which are the same events for as long as the transport lives.
//!
//! What the guest does while its device works takes no lock: the notification, and for an interrupt the status and
//! its acknowledgement. The other registers and the configuration share one, so that a processor which resets the
//! device and waits for a request in flight holds up nobody but those that set up the same device.
//!
//! # What Linux spends
//!
//! An access is an exit of the guest. From the platform device's probe to `DRIVER_OK`, Linux's driver makes 23, and 11
//! for each queue, and as many as there are words of the configuration that the device's driver reads:
//!
//! | what | reads | writes |
//! |---|---|---|
//! | magic value, version, device and vendor | 4 | |
//! | reset | | 1 |
//! | `ACKNOWLEDGE`, `DRIVER`, each added to what is read | 2 | 2 |
//! | features that are offered, in two halves | 2 | 2 |
//! | features that are chosen, in two halves | | 4 |
//! | `FEATURES_OK`, and whether it stayed | 2 | 1 |
//! | `DRIVER_OK`, and whether it is set | 2 | 1 |
//! | each queue: selection, state, size, three addresses in two halves, ready | 2 | 9 |
//!
//! An interrupt costs two exits, the status and its acknowledgement; a notification none where the hypervisor takes it.

mod generation;
mod interrupt;
mod queue;
mod registers;
mod session;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snafu::OptionExt;
use vmm_sys::Event;

pub use interrupt::InterruptLine;
pub use registers::{QUEUE_NOTIFY, WINDOW_SIZE};

use self::interrupt::MmioInterrupt;
use self::registers::{CONFIG, NoSuchAccessSnafu, NoSuchQueueSnafu, Refusal};
use self::session::Session;
use crate::memory::GuestMemory;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{DeviceType, VirtioDevice};

static REFUSED: LogLimit = LogLimit::new();
static NOT_NOTIFIED: LogLimit = LogLimit::new();

/// A device behind its registers. Dropping it stops the device.
pub struct MmioTransport {
    device_type: DeviceType,
    kicks: Arc<[Event]>,
    interrupt: Arc<MmioInterrupt>,
    /// `None` once it was shut down.
    session: Mutex<Option<Session>>,
}

impl MmioTransport {
    /// Shows a device to the guest whose memory this is. Its interrupts raise `line`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        line: Box<dyn InterruptLine>,
    ) -> io::Result<Self> {
        let device_type = device.device_type();
        let kicks = device.queue_sizes().iter().map(|_| Event::new()).collect::<io::Result<Arc<[_]>>>()?;
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let session = Session::new(device, memory, Arc::clone(&kicks), Arc::clone(&interrupt));
        Ok(Self { device_type, kicks, interrupt, session: Mutex::new(Some(session)) })
    }

    /// The event of each queue that a notification by the driver raises.
    pub fn kicks(&self) -> &[Event] {
        &self.kicks
    }

    /// The guest reads at an offset in the window. What cannot be read is zero.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let width = bytes.len();
        if let Some(at) = config_offset(offset, width) {
            if let Some(session) = &*self.session() {
                session.read_config(at, bytes);
            }
            return;
        }
        match <&mut [u8; 4]>::try_from(bytes) {
            Ok(word) if offset.is_multiple_of(4) => *word = self.read_register(offset).to_le_bytes(),
            _ => log_refusal("read", offset, width, &Refusal::NoSuchAccess),
        }
    }

    /// The guest writes at an offset in the window. What cannot be written, or not now, stays as it is.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        if let Some(at) = config_offset(offset, bytes.len()) {
            if let Some(session) = &mut *self.session() {
                session.write_config(at, bytes);
            }
            return;
        }
        let written = match <[u8; 4]>::try_from(bytes) {
            Ok(word) if offset.is_multiple_of(4) => self.write_register(offset, u32::from_le_bytes(word)),
            _ => NoSuchAccessSnafu.fail(),
        };
        if let Err(refusal) = written {
            log_refusal("write", offset, bytes.len(), &refusal);
        }
    }

    /// Stops the device, and returns when it is gone. From then on the registers do nothing.
    pub fn shutdown(&self) {
        // Not dropped while others would have to wait for it.
        let session = self.session().take();
        if let Some(mut session) = session {
            session.stop_queues();
        }
    }

    fn read_register(&self, register: u64) -> u32 {
        match register {
            registers::MAGIC_VALUE => registers::MAGIC,
            registers::VERSION => registers::MODERN,
            registers::DEVICE_ID => self.device_type as u32,
            registers::VENDOR_ID => registers::VENDOR,
            registers::INTERRUPT_STATUS => self.interrupt.pending(),
            // A region that does not exist has all bits of its length and its place set.
            registers::SHARED_MEMORY_LENGTH_LOW..=registers::SHARED_MEMORY_BASE_HIGH => u32::MAX,
            _ => self.session().as_mut().map_or(0, |session| session.read(register)),
        }
    }

    fn write_register(&self, register: u64, value: u32) -> Result<(), Refusal> {
        match register {
            QUEUE_NOTIFY => self.notify(value)?,
            registers::INTERRUPT_ACKNOWLEDGE => self.interrupt.acknowledge(value),
            _ => {
                if let Some(session) = &mut *self.session() {
                    session.write(register, value)?;
                }
            }
        }
        Ok(())
    }

    /// A notification that the hypervisor left to us. For a queue that does not run it is kept until it does.
    fn notify(&self, index: u32) -> Result<(), Refusal> {
        let kick = usize::try_from(index).ok().and_then(|at| self.kicks.get(at));
        if let Err(error) = kick.context(NoSuchQueueSnafu { index })?.notify()
            && let Some(left_out) = NOT_NOTIFIED.permit()
        {
            tracing::error!(index, %error, left_out, "cannot pass a queue's notification on");
        }
        Ok(())
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Where in the configuration space an access of a field lies: in its window, of a field's width, and aligned to it
/// (virtio 1.2, 4.2.2.2).
fn config_offset(offset: u64, width: usize) -> Option<u64> {
    let is_field = matches!(width, 1 | 2 | 4 | 8) && offset.is_multiple_of(width as u64);
    let at = offset.checked_sub(CONFIG)?;
    (is_field && offset < WINDOW_SIZE).then_some(at)
}

fn log_refusal(access: &str, offset: u64, width: usize, refusal: &Refusal) {
    if let Some(left_out) = REFUSED.permit() {
        tracing::warn!(access, offset, width, %refusal, left_out, "ignored what a guest did to a virtio register");
    }
}
