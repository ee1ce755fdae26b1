//! A queue as its driver describes it by registers.

use vm_memory::GuestAddress;

use super::registers::{
    self, NoSuchValueSnafu, NotWritableSnafu, QUEUE_AVAILABLE_RING_HIGH, QUEUE_AVAILABLE_RING_LOW,
    QUEUE_DESCRIPTOR_TABLE_HIGH, QUEUE_DESCRIPTOR_TABLE_LOW, QUEUE_USED_RING_HIGH, QUEUE_USED_RING_LOW,
    Refusal,
};
use crate::virtio::QueueLayout;

/// Nothing of it is checked before the queue starts, but for its size.
#[derive(Clone, Default)]
pub(super) struct QueueRegisters {
    size: u16,
    descriptor_table: u64,
    available_ring: u64,
    used_ring: u64,
    /// `QueueReady`.
    pub(super) is_ready: bool,
    /// The device serves it.
    pub(super) runs: bool,
}

impl QueueRegisters {
    /// Where the driver says that the queue lies.
    pub(super) fn layout(&self) -> QueueLayout {
        QueueLayout {
            size: self.size,
            descriptor_table: GuestAddress(self.descriptor_table),
            available_ring: GuestAddress(self.available_ring),
            used_ring: GuestAddress(self.used_ring),
        }
    }

    /// The driver wrote a register that describes a queue of at most `largest` descriptors.
    pub(super) fn describe(&mut self, register: u64, value: u32, largest: u16) -> Result<(), Refusal> {
        match register {
            registers::QUEUE_SIZE => {
                let size = u16::try_from(value).ok().filter(|&size| size <= largest);
                // Of no size, the queue does not start with one that the driver chose earlier.
                self.size = size.unwrap_or(0);
                return size.map_or_else(|| NoSuchValueSnafu { value }.fail(), |_| Ok(()));
            }
            QUEUE_DESCRIPTOR_TABLE_LOW => set_low(&mut self.descriptor_table, value),
            QUEUE_DESCRIPTOR_TABLE_HIGH => set_high(&mut self.descriptor_table, value),
            QUEUE_AVAILABLE_RING_LOW => set_low(&mut self.available_ring, value),
            QUEUE_AVAILABLE_RING_HIGH => set_high(&mut self.available_ring, value),
            QUEUE_USED_RING_LOW => set_low(&mut self.used_ring, value),
            QUEUE_USED_RING_HIGH => set_high(&mut self.used_ring, value),
            _ => return NotWritableSnafu.fail(),
        }
        Ok(())
    }
}

/// Sets the lower half of a register pair.
pub(super) fn set_low(pair: &mut u64, value: u32) {
    *pair = *pair >> 32 << 32 | u64::from(value);
}

/// Sets the upper half of a register pair.
pub(super) fn set_high(pair: &mut u64, value: u32) {
    *pair = u64::from(value) << 32 | *pair & u64::from(u32::MAX);
}
