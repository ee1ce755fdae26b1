//! The laboratory: a machine whose processor is emulated with its virtualization, so that `/dev/kvm` is real in it.
//!
//! `cargo lab` makes and drives it; `laboratory-init` is process 1 in it. This library is what both must agree on: the
//! words that go over the channel between them, and where things lie inside; and what a process there has for itself. See `docs/testing.md`.

mod libraries;
mod message;
mod own;

pub use libraries::libraries;
pub use message::{Message, Order, Terminal};
pub use own::{Memory, processor_seconds};

/// The name of the virtio port that is the channel.
pub const CHANNEL: &str = "laboratory";

/// The image store, in memory: homes of tests lie beside it, and share its files as hard links.
pub const IMAGES: &str = "/lab/images";

/// Where the programs under test appear, laid out like cargo's folder of a profile. The folder above it stands for
/// cargo's target folder.
pub const PROGRAMS: &str = "/lab/target/debug";

/// The file that tells which process holds a VM for as long as the laboratory is there: its number.
pub const MACHINE: &str = "/run/laboratory-machine";

/// The disk with the root file system, which is only read.
pub const ROOT_DISK: &str = "/dev/vda";

/// The disk with the programs under test, which is only read, and not before a command comes.
pub const PROGRAMS_DISK: &str = "/dev/vdb";

/// The folder, on the disk with the programs and in the initial file system, with the shared libraries of programs from
/// elsewhere. Beneath it they have the paths at which the programs look for them.
pub const LIBRARIES: &str = "libraries";
