//! The ways a guest reaches a device.

pub mod mmio;
#[cfg(target_os = "linux")]
pub mod vhost_user;
