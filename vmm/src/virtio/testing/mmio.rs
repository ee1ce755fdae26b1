//! The driver's side of virtio over MMIO: what Linux does to the registers, in its order.

use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys::Event;

use super::interrupt::wait_and_clear;
use super::{Completion, GuestQueue, TestMemory};
use crate::virtio::VirtioDevice;
use crate::virtio::transport::mmio::MmioTransport;

/// The registers, as a driver has them from the specification (virtio 1.2, 4.2.2).
#[expect(missing_docs, reason = "the specification's names")]
pub mod register {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const SHM_SEL: u64 = 0x0ac;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// The bits of the status register (virtio 1.2, 2.1).
#[expect(missing_docs, reason = "the specification's names")]
pub mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
}

/// A driver behind a transport, which counts what it does to the registers.
pub struct MmioDriver {
    transport: MmioTransport,
    line: Event,
    accesses: AtomicU64,
}

impl MmioDriver {
    /// Puts a device behind registers.
    pub fn new(device: impl VirtioDevice + 'static, memory: &TestMemory) -> Self {
        let line = Event::new().expect("an event");
        let its_line = line.try_clone().expect("another handle on the event");
        let transport = MmioTransport::new(Box::new(device), memory.handle(), Box::new(its_line));
        Self { transport: transport.expect("a transport"), line, accesses: AtomicU64::new(0) }
    }

    /// What the driver drives.
    pub fn transport(&self) -> &MmioTransport {
        &self.transport
    }

    /// The interrupt line.
    pub fn line(&self) -> &Event {
        &self.line
    }

    /// How many accesses there were since the last call.
    pub fn take_accesses(&self) -> u64 {
        self.accesses.swap(0, Ordering::SeqCst)
    }

    /// Reads a register.
    pub fn read(&self, register: u64) -> u32 {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let mut bytes = [0xaa; 4];
        self.transport.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a register.
    pub fn write(&self, register: u64, value: u32) {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Writes an address into a pair of registers, given the lower one.
    pub fn write_address(&self, register: u64, address: u64) {
        self.write(register, u32::try_from(address & 0xffff_ffff).unwrap());
        self.write(register + 4, u32::try_from(address >> 32).unwrap());
    }

    /// Reads a field of the configuration in one access.
    pub fn read_config<const WIDTH: usize>(&self, offset: u64) -> [u8; WIDTH] {
        self.accesses.fetch_add(1, Ordering::SeqCst);
        let mut bytes = [0xaa; WIDTH];
        self.transport.read(register::CONFIG + offset, &mut bytes);
        bytes
    }

    /// The status.
    pub fn status(&self) -> u32 {
        self.read(register::STATUS)
    }

    /// Adds bits to the status.
    pub fn add_status(&self, bits: u32) {
        self.write(register::STATUS, self.status() | bits);
    }

    /// Resets the device.
    pub fn reset(&self) {
        self.write(register::STATUS, 0);
    }

    /// The features that are offered.
    pub fn features(&self) -> u64 {
        let half = |select| {
            self.write(register::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(1) << 32 | half(0)
    }

    /// Chooses features, without a word in the status.
    pub fn choose_features(&self, features: u64) {
        for select in [1, 0] {
            self.write(register::DRIVER_FEATURES_SEL, select);
            let half = u32::try_from(features >> (32 * select) & 0xffff_ffff).unwrap();
            self.write(register::DRIVER_FEATURES, half);
        }
    }

    /// Finds the device, resets it and negotiates all that it offers but what `without` names. Says what that is.
    pub fn probe(&self, without: u64) -> u64 {
        assert_eq!(self.read(register::MAGIC_VALUE), 0x7472_6976);
        assert_eq!(self.read(register::VERSION), 2);
        assert_ne!(self.read(register::DEVICE_ID), 0);
        self.read(register::VENDOR_ID);
        self.negotiate(without)
    }

    /// The same for a device that was found before.
    pub fn negotiate(&self, without: u64) -> u64 {
        self.reset();
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let features = self.features() & !without;
        self.choose_features(features);
        self.add_status(status::FEATURES_OK);
        assert_ne!(self.status() & status::FEATURES_OK, 0, "the device refused its own features");
        features
    }

    /// Describes a queue and makes it ready.
    pub fn set_queue(&self, index: u32, queue: &GuestQueue) {
        self.write(register::QUEUE_SEL, index);
        assert_eq!(self.read(register::QUEUE_READY), 0, "the queue is ready before it is described");
        let layout = queue.layout();
        assert!(
            self.read(register::QUEUE_NUM_MAX) >= u32::from(layout.size),
            "the queue may not be so large"
        );
        self.write(register::QUEUE_NUM, layout.size.into());
        self.write_address(register::QUEUE_DESC_LOW, layout.descriptor_table.0);
        self.write_address(register::QUEUE_DRIVER_LOW, layout.available_ring.0);
        self.write_address(register::QUEUE_DEVICE_LOW, layout.used_ring.0);
        self.write(register::QUEUE_READY, 1);
    }

    /// Lets the device work.
    pub fn driver_ok(&self) {
        self.add_status(status::DRIVER_OK);
        assert_ne!(self.status() & status::DRIVER_OK, 0);
    }

    /// Notifies the device by the register.
    pub fn notify(&self, index: u32) {
        self.write(register::QUEUE_NOTIFY, index);
    }

    /// Waits for an interrupt, acknowledges what it says, and returns that.
    pub fn wait_for_interrupt(&self) -> u32 {
        wait_and_clear(&self.line);
        let pending = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, pending);
        pending
    }

    /// Waits until the device is done with a chain of a queue, woken by its interrupts.
    pub fn wait_used(&self, queue: &mut GuestQueue) -> Completion {
        loop {
            queue.want_interrupt();
            if let Some(completion) = queue.try_used() {
                return completion;
            }
            assert_eq!(self.status() & status::DEVICE_NEEDS_RESET, 0, "the device gave up");
            self.wait_for_interrupt();
        }
    }
}
