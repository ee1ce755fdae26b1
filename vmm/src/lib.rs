//! Virtual machines for running code in a sandbox.
//!
//! The modules and what may depend on what are described in `docs/design.md`; the arrows run one way.

pub mod arch;
pub mod engine;
pub mod machine;
pub mod memory;
pub mod virtio;
