//! `ConfigGeneration`: how a driver sees that the configuration changed while it read a field in pieces.

use crate::virtio::VirtioDevice;

/// No device has a longer configuration space.
const LENGTH: usize = 256;

/// The configuration as it was when the driver last asked for its generation.
///
/// A device changes its configuration first and says so afterwards, so the driver may have read half of the new one
/// when the device has said nothing yet. The generation must have changed by then (virtio 1.2, 4.2.2.1), which is why
/// the configuration itself is compared. What changed twice and is as before was said at least once.
pub(super) struct Generation {
    seen: [u8; LENGTH],
    changes: u32,
}

impl Generation {
    pub(super) fn new() -> Self {
        Self { seen: [0; LENGTH], changes: 0 }
    }

    /// The generation of the configuration as it is now; the device said `announced` times that it changed.
    pub(super) fn of(&mut self, device: &dyn VirtioDevice, announced: u32) -> u32 {
        let mut now = [0; LENGTH];
        device.read_config(0, &mut now);
        if now != self.seen {
            self.seen = now;
            self.changes = self.changes.wrapping_add(1);
        }
        self.changes.wrapping_add(announced)
    }
}
