//! Virtual machines for running code in a sandbox.
//!
//! The modules and what may depend on what are described in `docs/design.md`; the arrows run one way.

pub mod agent;
pub mod arch;
pub mod boot;
pub mod engine;
pub mod home;
pub mod image;
pub mod machine;
pub mod memory;
pub mod sandbox;
pub mod virtio;

pub use home::{EngineChoice, Home, Init, VmId, VmName, VmState};
pub use sandbox::{
    CancelToken, Command, Error, ExitStatus, Output, Process, Progress, PullPolicy, Sandbox, SandboxBuilder,
    StartOptions, Stdin, TerminalSize, VmInfo,
};
