//! What the agent answers to a request, in the first header of its side.

use serde::{Deserialize, Serialize};

use crate::{Change, Exit, FileInfo, FolderEntry, GuestProcess, KernelRecord, ProcessId, ProcessInfo};

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Ok(Reply),
    /// It was not.
    Error {
        /// Why, for programs.
        kind: ErrorKind,
        /// Why, for people: what was tried, on what, and the cause.
        message: String,
    },
}

/// What is told when a request was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The process runs.
    Started {
        /// Its name for later requests.
        process: ProcessId,
        /// Its number in the guest.
        pid: u32,
    },
    /// The client is attached; what is kept of the output follows.
    Attached {
        /// Whether the process has a terminal.
        terminal: bool,
        /// Whether its standard input can still be fed.
        stdin: bool,
        /// How many bytes of standard output came before the first that is replayed.
        stdout_from: u64,
        /// The same for standard error.
        stderr_from: u64,
    },
    /// The process has ended.
    Ended(Exit),
    /// Nothing more is to be told.
    Done,
    /// The processes that the agent started: those that run, and those that ended last.
    Processes(Vec<ProcessInfo>),
    /// How the guest is.
    Health(Health),
    /// The file systems stand still: what their disks hold is what a disk that was unmounted holds.
    Frozen,
    /// They go on. The second answer to [`Request::Freeze`](crate::Request::Freeze), and the last.
    Thawed {
        /// How long they stood still.
        frozen_us: u64,
        /// It was too long, and the client was not waited for.
        expired: bool,
    },
    /// An archive can come, or follows. Since 1.2.
    Transferring,
    /// What a file is. Since 1.3, as are the next.
    File(FileInfo),
    /// Some of what is in a folder, never nothing.
    Entries(Vec<FolderEntry>),
    /// A part of this file follows.
    Contents(FileInfo),
    /// It goes on.
    Going {
        /// How much is done.
        entries: u64,
    },
    /// What changes from now on is told.
    Watching,
    /// What has changed, never nothing.
    Changes(Vec<Change>),
    /// Some of the guest's processes, never none.
    GuestProcesses(Vec<GuestProcess>),
    /// Some lines of the kernel's log, never none.
    KernelLog(Vec<KernelRecord>),
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The client speaks another MAJOR version of the protocol. The answer's own version is the agent's.
    Version,
    /// The header is no request.
    Malformed,
    /// There is no process of that name, or it is forgotten.
    NoSuchProcess,
    /// The process has ended already.
    Ended,
    /// The process has no terminal.
    NoTerminal,
    /// The command does not exist (a shell's status 127).
    CommandNotFound,
    /// The command exists and cannot be executed (a shell's status 126).
    CommandNotExecutable,
    /// The working directory cannot be entered.
    WorkingDirectory,
    /// There is no such user or group.
    NoSuchUser,
    /// The guest has no more memory, processes or descriptors for it.
    Resources,
    /// The guest is shutting down.
    ShuttingDown,
    /// Somebody else has it. Since 1.1.
    Busy,
    /// A file or folder is not there. Since 1.2.
    NoSuchFile,
    /// It must not be read, written or made. Since 1.2.
    NotPermitted,
    /// There is no room for it. Since 1.2.
    NoSpace,
    /// It is of a kind that was not asked for, or stands in the way. Since 1.2.
    UnfitFile,
    /// An archive is damaged, or goes where it must not. Since 1.2.
    BadArchive,
    /// It cannot be read, written or made for another reason. Since 1.2.
    File,
    /// It is a folder. Since 1.3, as are the next.
    IsFolder,
    /// It is no folder.
    NotFolder,
    /// It is there already.
    FileExists,
    /// The folder is not empty.
    FolderNotEmpty,
    /// A name or a path is too long.
    NameTooLong,
    /// Its file system is read-only.
    ReadOnly,
    /// The agent failed.
    Internal,
    /// A kind that a newer agent knows.
    #[serde(other)]
    Other,
}

/// How the guest is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The agent's own version.
    pub agent: String,
    /// The time since the kernel started.
    pub uptime_ms: u64,
    /// The load over 1, 5 and 15 minutes, in hundredths.
    pub load_hundredths: [u32; 3],
    /// Its memory.
    pub memory: MemoryUse,
    /// Its mounted disks.
    pub disks: Vec<DiskUse>,
    /// The processes that the agent started and that run.
    pub processes: u32,
}

/// The guest's memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUse {
    /// What the kernel has.
    pub total: u64,
    /// What is used for nothing.
    pub free: u64,
    /// What programs could have without swapping.
    pub available: u64,
    /// Space to swap to.
    pub swap_total: u64,
    /// How much of it is free.
    pub swap_free: u64,
}

/// A mounted disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskUse {
    /// The block device.
    pub device: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// The file system's type.
    pub file_system: String,
    /// Its size.
    pub total: u64,
    /// What is free for users who are not root.
    pub available: u64,
    /// Nothing can be written to it.
    pub read_only: bool,
}
