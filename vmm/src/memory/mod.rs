//! Guest memory: the regions as we have them mapped, replaced as a whole when the machine changes them.
//!
//! Devices hold a [`GuestMemory`] handle and take a snapshot for each piece of work.

mod give_back;
mod io_vectors;
mod private;
#[cfg(target_os = "linux")]
mod shared;

pub use give_back::give_back;
pub use io_vectors::{ReadVectors, WriteVectors};
pub use private::{ask_for_huge, copy_ahead, fresh_regions, make_huge, map_file};
#[cfg(target_os = "linux")]
pub use shared::{MapError, SharedRegion, map_shared_regions};

use vm_memory::{GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};

/// A handle on the guest's memory. Cloning it is cheap; every clone sees a later replacement of the regions.
pub type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The regions as they are at one moment.
pub type Regions = GuestMemoryMmap;

/// The regions as they were when the snapshot was taken: [`GuestMemory`]'s `memory()` gives one. What it maps stays
/// mapped while it lives, so it is kept for one piece of work and not for long.
pub type Snapshot = GuestMemoryLoadGuard<GuestMemoryMmap>;
