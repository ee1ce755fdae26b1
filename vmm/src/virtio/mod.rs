//! Virtio devices and the ways a guest reaches them.
//!
//! A device knows neither its transport nor the engine that runs the guest. It is given guest memory, queues, an
//! interrupt to trigger by vector and an event to wait for, and nothing else.
//!
//! May depend on: `memory`, `arch`, `vmm-sys`, `vmm-disk`. Never on `machine`, `engine`, `monitor`, `sandbox`.

pub mod balloon;
pub mod block;
mod chain;
pub mod console;
mod device;
pub mod entropy;
pub mod log_limit;
mod pace;
pub mod queue;
#[cfg(test)]
mod queue_tests;
pub mod vsock;
mod worker;

pub mod transport;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use chain::{Chain, ChainReader, ChainWriter, Segment};
pub use device::{
    DeviceError, DeviceType, Interrupt, QueueLayout, QueueResources, QueueState, Vector, VirtioDevice,
};
pub use queue::{QueueError, Virtqueue};
pub use worker::{QueueHandler, QueueWorker, Served};

/// `VIRTIO_RING_F_INDIRECT_DESC`: chains may lie in tables of their own (virtio 1.2, 6).
pub const RING_INDIRECT_DESCRIPTORS: u64 = 1 << 28;
/// `VIRTIO_RING_F_EVENT_IDX`: both sides say for which entry they want to be notified.
pub const RING_EVENT_INDEX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: the device is not a legacy one.
pub const VERSION_1: u64 = 1 << 32;
