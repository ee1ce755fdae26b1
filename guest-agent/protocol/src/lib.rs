//! All that host and guest share: the messages of the agent protocol and how they lie on the wire.
//!
//! `docs/protocol.md` describes the protocol. This package knows no socket: it turns bytes into messages and back, so
//! that both sides, and the fuzzers, use the same parsers. It depends on nothing of ours.

pub mod answer;
pub mod boot;
pub mod byte_string;
pub mod file;
pub mod frame;
pub mod guest_process;
pub mod header;
pub mod kernel_log;
pub mod process;
pub mod request;
pub mod transfer;
pub mod version;

pub use answer::{Answer, DiskUse, ErrorKind, Health, MemoryUse, Reply};
pub use boot::{AgentMessage, Configuration, Failed, Hello, Init, Overlay, Ready, Root, Timings};
pub use byte_string::ByteString;
pub use file::{Change, ChangeKind, FileInfo, FileKind, FileRequest, FolderEntry};
pub use frame::{FRAME_HEADER_SIZE, FrameError, FrameHeader, FrameKind, MAX_EXIT_FRAME, MAX_FRAME};
pub use guest_process::GuestProcess;
pub use header::{HeaderError, MAX_HEADER, Mismatch};
pub use kernel_log::KernelRecord;
pub use process::{Exit, Outcome, ProcessId, ProcessInfo, Signal, SignalTarget, TerminalSize};
pub use request::{Attach, OnDisconnect, Request, Shutdown, ShutdownMode, Start};
pub use transfer::{Holds, Pack, PieceError, PieceReader, PieceWriter, Totals, Transfer, Unpack};
pub use version::Version;

/// The version that this package speaks.
pub const VERSION: Version = Version { major: 1, minor: 5 };

/// The vsock port on which the agent listens. Privileged (below 1024), so that no guest user can take it.
pub const AGENT_PORT: u32 = 1023;

/// The vsock port on which the host waits for the agent to report after a boot.
pub const BOOT_PORT: u32 = 1022;

/// The host's address on vsock.
pub const HOST_CID: u32 = 2;
