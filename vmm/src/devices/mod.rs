//! What a machine has beside its virtio devices: the bus that leads accesses to devices, a serial port, and the switch
//! by which a guest ends itself.
//!
//! May depend on: `memory`, `arch`, `vmm-sys`. Knows no engine.

mod bus;
mod power;
mod serial;

pub use bus::{Bus, BusDevice, BusError, Effect};
pub use power::PowerControl;
pub use serial::SerialPort;
