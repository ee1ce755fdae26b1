//! Kernels: what one must have to run in vmm, whether one has it, how one is built, and the store of those that were.
//!
//! What is wanted of a kernel stands in `kernel-config/`, which is part of this program.
//!
//! May depend on: `boot`, `image` (how it keeps files), `home`, `arch`, `vmm-sys`.

mod build;
mod check;
mod choice;
mod configuration;
mod error;
mod fragments;
mod name;
mod source;
mod store;
mod tools;

pub use build::{Build, BuildProgress, BuildStep};
pub use check::{Checked, Missing, Modules, Subject, obstacle};
pub use choice::Choice;
pub use configuration::Configuration;
pub use error::KernelsError;
pub use fragments::{Purpose, UnknownPurpose};
pub use name::KernelName;
pub use store::{KernelDetails, KernelStore, StoredKernel};
