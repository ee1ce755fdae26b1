//! What a machine boots: kernels in the form that an engine loads, the initial file system, the command line.
//!
//! Everything here reads and writes bytes; which files they come from is the business of `image`. What is read may be
//! hostile: lengths are checked before they are used, and nothing grows without a limit.
//!
//! May depend on: `memory`, `arch`.

mod command_line;
pub(crate) mod compression;
mod cpio;
mod initramfs;
mod kernel;
mod load_plan;
mod modules;
#[cfg(test)]
pub(crate) mod testing;
mod x86_64;

pub use command_line::{CommandLine, CommandLineError};
pub use compression::Compression;
pub use initramfs::{Initramfs, InitramfsError, Stage};
pub use kernel::{Kernel, KernelError};
pub use load_plan::{EntryPoint, FilePiece, LoadError, LoadPlan};
pub use modules::{
    ModuleError, ModuleIndex, ModulePlan, PlannedModule, Want, check_release, takes_unsigned,
    without_signature,
};
pub use x86_64::{X86Boot, X86BootError};
