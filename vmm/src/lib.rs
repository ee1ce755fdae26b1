//! Virtual machines for running code in a sandbox.
//!
//! The modules and what may depend on what are described in `docs/design.md`; the arrows run one way.

pub mod agent;
pub mod arch;
pub mod boot;
pub mod control;
pub mod devices;
pub mod engine;
pub mod home;
pub mod hypervisor;
pub mod image;
pub mod kernels;
#[cfg(test)]
mod life_cycle_tests;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod project;
pub mod sandbox;
pub mod threads;
pub mod virtio;

pub use engine::EngineChoice;
pub use home::{Home, Init, VmId, VmName, VmState, nearest_name};
pub use machine::{ConsoleKind, MemorySize};
pub use sandbox::{
    Balloon, BootProfileUse, ByteString, CancelToken, Change, ChangeKind, Cloned, Command, Committed,
    Console, ConsoleLog, Copied, CopyOptions, CopyOwner, DEFAULT_STOP_GRACE, DiskCheck, DiskDetails,
    DiskFile, DiskSize, DiskSpace, Error, Events, ExitStatus, ExtraDisk, FileInfo, FileKind, FolderEntries,
    FolderEntry, GuestProcess, Happened, Health, HealthCheck, HealthReport, HealthStatus, HostCosts,
    ImagePull, KernelRecord, LayerDetails, LogOptions, MetricsPlace, Moment, Output, PoolBuilder, Process,
    ProcessControl, ProcessEvent, ProcessId, ProcessInfo, ProcessOutput, ProcessStdin, ProcessTail, Progress,
    PrunedVm, PullPolicy, PulledImage, RestartPolicy, RootWrites, Sandbox, SandboxBuilder, SandboxPool,
    ServiceRestart, ServiceScope, ServiceUnit, Signal, SnapshotInfo, StartOptions, Stdin, Step, TerminalSize,
    Timeline, VmDetails, VmEvent, VmInfo, VmStats, Watch, error_line, image_users, prometheus_text,
    prune_images, prune_vms, remove_image, remove_kernel, remove_unreadable_image, serve_metrics,
    stopped_vms,
};
pub use vmm_disk::Format as DiskFormat;
pub use vmm_protocol::VERSION as PROTOCOL_VERSION;

/// The README's example is compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So are those of the guide for programs.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct Embedding;
