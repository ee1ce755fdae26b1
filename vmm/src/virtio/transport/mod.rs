//! The ways a guest reaches a device.

#[cfg(target_os = "linux")]
pub mod vhost_user;
