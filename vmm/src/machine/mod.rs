//! What a virtual machine is, and the devices made from that description. Knows no process and no engine.
//!
//! May depend on: `virtio`, `memory`, `arch`, `vmm-disk`.

mod build;
mod exits;
mod size;
mod spec;

pub use build::BuildError;
pub use exits::{Accesses, Exits, RunExits};
pub use size::{MemorySize, MemorySizeError, parse_bytes};
pub use spec::{BalloonTooLarge, BootSpec, ConsoleKind, DiskSpec, MachineSpec, UnknownConsole, VsockSpec};

/// The host's hold on a machine's balloon.
pub use crate::virtio::balloon::BalloonControl;

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::arch::Arch;
use crate::virtio::VirtioDevice;

/// A machine ready to be launched by an engine: every file is open, every device is made, nothing runs.
pub struct Machine {
    /// The guest's architecture.
    pub arch: Arch,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The guest may run virtual machines itself.
    pub nested: bool,
    /// Its memory is in huge pages of the host's.
    pub huge_pages: bool,
    /// The kernel: ELF on x86_64, `Image` on arm64, never compressed.
    pub kernel: File,
    /// The initial file system.
    pub initramfs: File,
    /// The kernel's command line, without what an engine adds of its own.
    pub command_line: String,
    /// The devices, in the order in which the guest sees them.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// The host's hold on the balloon, where there is one among the devices.
    pub balloon: Option<BalloonControl>,
    /// Our end is elsewhere: what the guest writes to its serial port goes into this socket. A virtio console has a
    /// clone of it.
    pub console: OwnedFd,
    /// What comes out of that socket is typed on the serial port. A virtio console takes it by itself.
    pub types_on_serial: bool,
}
