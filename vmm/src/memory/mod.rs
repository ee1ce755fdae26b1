//! Guest memory: the regions as we have them mapped, replaced as a whole when the machine changes them.
//!
//! Devices hold a [`GuestMemory`] handle and take a snapshot for each piece of work.

use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// A handle on the guest's memory. Cloning it is cheap; every clone sees a later replacement of the regions.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap>;
