//! Where the registers lie in a device's window, and the words in them (virtio 1.2, 4.2.2).

use snafu::Snafu;

/// The length of a device's window.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Where the driver writes the number of a queue that has something for the device. Whoever runs the guest may turn
/// such a write into a notification of the queue's [kick](super::MmioTransport::kicks) without leaving the kernel.
pub const QUEUE_NOTIFY: u64 = 0x050;

pub(super) const MAGIC_VALUE: u64 = 0x000;
pub(super) const VERSION: u64 = 0x004;
pub(super) const DEVICE_ID: u64 = 0x008;
pub(super) const VENDOR_ID: u64 = 0x00c;
pub(super) const DEVICE_FEATURES: u64 = 0x010;
pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
pub(super) const DRIVER_FEATURES: u64 = 0x020;
pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
pub(super) const QUEUE_SELECT: u64 = 0x030;
pub(super) const QUEUE_SIZE_MAXIMUM: u64 = 0x034;
pub(super) const QUEUE_SIZE: u64 = 0x038;
pub(super) const QUEUE_READY: u64 = 0x044;
pub(super) const INTERRUPT_STATUS: u64 = 0x060;
pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
pub(super) const STATUS: u64 = 0x070;
pub(super) const QUEUE_DESCRIPTOR_TABLE_LOW: u64 = 0x080;
pub(super) const QUEUE_DESCRIPTOR_TABLE_HIGH: u64 = 0x084;
pub(super) const QUEUE_AVAILABLE_RING_LOW: u64 = 0x090;
pub(super) const QUEUE_AVAILABLE_RING_HIGH: u64 = 0x094;
pub(super) const QUEUE_USED_RING_LOW: u64 = 0x0a0;
pub(super) const QUEUE_USED_RING_HIGH: u64 = 0x0a4;
pub(super) const SHARED_MEMORY_SELECT: u64 = 0x0ac;
pub(super) const SHARED_MEMORY_LENGTH_LOW: u64 = 0x0b0;
pub(super) const SHARED_MEMORY_BASE_HIGH: u64 = 0x0bc;
pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
pub(super) const CONFIG: u64 = 0x100;

/// `MagicValue`: "virt".
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// `Version`: not a legacy device.
pub(super) const MODERN: u32 = 2;
/// `VendorID`: drivers do not look at it.
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"vmm\0");

/// The bits of `Status` (virtio 1.2, 2.1).
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u32 = 1;
    pub(in super::super) const DRIVER: u32 = 2;
    pub(in super::super) const DRIVER_OK: u32 = 4;
    pub(in super::super) const FEATURES_OK: u32 = 8;
    pub(in super::super) const DEVICE_NEEDS_RESET: u32 = 64;
    pub(in super::super) const FAILED: u32 = 128;
}

/// The bits of `InterruptStatus`.
pub(super) mod interrupt {
    pub(in super::super) const QUEUE: u32 = 1;
    pub(in super::super) const CONFIG: u32 = 2;
}

/// Why an access has no effect.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub(super) enum Refusal {
    #[snafu(display("no such access is possible there"))]
    NoSuchAccess,
    #[snafu(display("no register there can be written"))]
    NotWritable,
    #[snafu(display("the device has no queue {index}"))]
    NoSuchQueue { index: u32 },
    #[snafu(display("the status {status:#x} does not allow it"))]
    WrongStatus { status: u32 },
    #[snafu(display("the features were settled before"))]
    FeaturesSettled,
    #[snafu(display("the driver chose the features {chosen:#x} of {offered:#x}"))]
    Features { chosen: u64, offered: u64 },
    #[snafu(display("queue {index} is ready"))]
    QueueReady { index: u32 },
    #[snafu(display("{value:#x} is no value of it"))]
    NoSuchValue { value: u32 },
}
