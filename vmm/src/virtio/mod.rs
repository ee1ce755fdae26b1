//! Virtio devices and the ways a guest reaches them.
//!
//! A device knows neither its transport nor the engine that runs the guest. It is given guest memory, queues, an
//! interrupt to trigger by vector and an event to wait for, and nothing else.
//!
//! May depend on: `memory`, `arch`, `vmm-sys`, `vmm-disk`. Never on `machine`, `engine`, `monitor`, `sandbox`.

mod device;

pub use device::{
    DeviceError, DeviceType, Interrupt, QueueLayout, QueueResources, QueueState, Vector, VirtioDevice,
};
