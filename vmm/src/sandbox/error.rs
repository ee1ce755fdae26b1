//! Everything that can go wrong, with a stable code and a hint.

use std::io;
use std::path::PathBuf;

use snafu::Snafu;

use crate::agent::{AgentError, BinaryError, ErrorKind};
use crate::boot::{CommandLineError, KernelError};
use crate::control::ControlError;
use crate::home::{End, HomeError};
use crate::image::{ImageError, ImageRefError};
use crate::kernels::KernelsError;

/// Why something could not be done. [`Error::code`] is stable; the text is for people.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
#[non_exhaustive]
pub enum Error {
    /// The home, or a VM in it.
    #[snafu(context(false), display("{source}"))]
    Home {
        /// The cause.
        #[snafu(source)]
        source: HomeError,
    },
    /// An image.
    #[snafu(context(false), display("{source}"))]
    Image {
        /// The cause.
        #[snafu(source(from(ImageError, Box::new)))]
        source: Box<ImageError>,
    },
    /// VMs boot from the image.
    #[snafu(display("the image {image} is used by {}", users.join(", ")))]
    ImageInUse {
        /// The image.
        image: String,
        /// The VMs.
        users: Vec<String>,
    },
    /// What was asked for names no image.
    #[snafu(context(false), display("{source}"))]
    ImageRef {
        /// The rule.
        #[snafu(source)]
        source: ImageRefError,
    },
    /// No guest can be of this host's architecture.
    #[snafu(display("no VM can be of this host's architecture: x86_64 and arm64 can"))]
    NoArch,
    /// There is no agent for the guest.
    #[snafu(display("{source}"))]
    AgentBinary {
        /// The cause.
        source: BinaryError,
    },
    /// A kernel of the user's cannot be booted.
    #[snafu(display("cannot boot the kernel {}", path.display()))]
    Kernel {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: KernelError,
    },
    /// A kernel of the user's has not what every VM needs.
    #[snafu(display("cannot boot the kernel {}: {what}", path.display()))]
    KernelLacks {
        /// Its file.
        path: PathBuf,
        /// What it has not.
        what: String,
    },
    /// The kernels of the store.
    #[snafu(context(false), display("{source}"))]
    Kernels {
        /// The cause.
        #[snafu(source(from(KernelsError, Box::new)))]
        source: Box<KernelsError>,
    },
    /// The parameters for the kernel cannot be.
    #[snafu(display("{source}"))]
    CommandLine {
        /// The cause.
        source: CommandLineError,
    },
    /// A disk cannot be made or used.
    #[snafu(display("cannot make the VM's disk"))]
    Disk {
        /// The cause.
        source: vmm_disk::Error,
    },
    /// A disk file of the user's cannot be made or used.
    #[snafu(display("cannot use the disk"))]
    DiskFile {
        /// The cause.
        source: vmm_disk::Error,
    },
    /// What was asked for cannot be.
    #[snafu(display("{message}"))]
    Invalid {
        /// What is wrong with it, and what would do.
        message: String,
    },
    /// The `vmm` executable, which is the monitor process, was not found.
    #[snafu(display("cannot find the executable vmm, which runs the VM"))]
    NoMonitor,
    /// The monitor process cannot be started.
    #[snafu(display("cannot start the VM's monitor process {}", program.display()))]
    MonitorStart {
        /// The executable.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The monitor process ended without a word.
    #[snafu(display("the VM's monitor process ended unexpectedly{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default()))]
    MonitorLost {
        /// The last line of its log.
        said: Option<String>,
    },
    /// The monitor does not answer, or not in our language.
    #[snafu(display("{source}"))]
    Control {
        /// The cause.
        #[snafu(source)]
        source: ControlError,
    },
    /// What was asked for was cancelled. Nothing is left of a start that was.
    #[snafu(display("cancelled"))]
    Cancelled,
    /// The VM ended, or did not start.
    #[snafu(display("{}", end.message))]
    Ended {
        /// How.
        end: Box<End>,
    },
    /// The VM does not run.
    #[snafu(display("the VM {name} is not running"))]
    NotRunning {
        /// The VM.
        name: String,
    },
    /// The VM has not got ready yet.
    #[snafu(display("the VM {name} is still starting"))]
    NotReady {
        /// The VM.
        name: String,
    },
    /// The VM's processors stand still.
    #[snafu(display("the VM {name} is paused"))]
    Paused {
        /// The VM.
        name: String,
    },
    /// The VM has no balloon.
    #[snafu(display("the VM {name} has no balloon"))]
    NoBalloon {
        /// The VM.
        name: String,
    },
    /// The VM's monitor process is of an older vmm, which knows nothing of what was asked for.
    #[snafu(display("the monitor process of the VM {name} is of an older vmm, which cannot do that"))]
    OldMonitor {
        /// The VM.
        name: String,
    },
    /// The VM runs already.
    #[snafu(display("the VM {name} is running already"))]
    AlreadyRunning {
        /// The VM.
        name: String,
    },
    /// What was asked for is not done to a VM that runs.
    #[snafu(display("the VM {name} is running: stop it first"))]
    Running {
        /// The VM.
        name: String,
    },
    /// What was asked for is done to the disk of a VM that does not run.
    #[snafu(display("the VM {name} is running: stop it first"))]
    MustStop {
        /// The VM.
        name: String,
    },
    /// The VM has no such snapshot.
    #[snafu(display("the VM {vm} has no snapshot {name}{}", nearest.as_ref().map(|name| format!(": did you mean {name}?")).unwrap_or_default()))]
    NoSnapshot {
        /// The VM.
        vm: String,
        /// What was asked for.
        name: String,
        /// A name that is nearly the same.
        nearest: Option<String>,
    },
    /// The guest has no such program.
    #[snafu(display("{program}: not found in the guest"))]
    CommandNotFound {
        /// What was to run.
        program: String,
    },
    /// The guest cannot execute it.
    #[snafu(display("{program}: cannot be executed in the guest: {reason}"))]
    CommandNotExecutable {
        /// What was to run.
        program: String,
        /// Why.
        reason: String,
    },
    /// A file on the host cannot be copied, or nothing can be copied to it.
    #[snafu(display("on the host"))]
    HostFile {
        /// Which, and why.
        source: vmm_archive::Error,
    },
    /// A file in the guest cannot be copied, or nothing can be copied to it.
    #[snafu(display("in the guest: {message}"))]
    GuestFile {
        /// Why, for programs.
        kind: ErrorKind,
        /// Which, and why; printable.
        message: String,
    },
    /// What a guest sends is more than it may be.
    #[snafu(display("what the guest sends is not taken: {message}"))]
    CopyLimit {
        /// Which limit it exceeds.
        message: String,
    },
    /// No machine of a pool was ready in time.
    #[snafu(display("no machine of the pool was ready within {timeout:?}"))]
    PoolTimeout {
        /// How long it was waited for.
        timeout: std::time::Duration,
    },
    /// The guest's agent refused, does not answer, or not in our language.
    #[snafu(display("{source}"))]
    Agent {
        /// The cause.
        #[snafu(source)]
        source: AgentError,
    },
    /// The system refused something.
    #[snafu(display("cannot {what}"))]
    System {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// Whether a process was let go that goes on by itself.
    pub fn is_detached(&self) -> bool {
        matches!(self, Self::Agent { source: AgentError::Detached })
    }

    /// Whether it was cancelled by whom it was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.code() == "cancelled"
    }

    /// Whether a time was up: a guest that does not get ready or does not answer, a pool that has none.
    pub fn is_timeout(&self) -> bool {
        matches!(self.code(), "agent_timeout" | "never_ready" | "monitor_unresponsive" | "pool_timeout")
    }

    /// Whether there is no such VM.
    pub fn is_no_such_vm(&self) -> bool {
        self.code() == "no_such_vm"
    }

    /// Whether the VM does not run: it was never started, or it has ended, also just now.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Ended { .. } | Self::MonitorLost { .. })
    }

    /// Whether the guest has no such file, or no such program.
    pub fn is_not_found(&self) -> bool {
        matches!(self.code(), "no_such_file" | "command_not_found")
    }

    /// Whether what was asked for cannot be, whatever state anything is in: a mistake of the caller's.
    pub fn is_invalid(&self) -> bool {
        self.code().starts_with("invalid")
    }

    /// A stable word for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Home { source } => source.code(),
            Self::Image { source } => image_code(source),
            Self::ImageInUse { .. } => "image_in_use",
            Self::ImageRef { .. } => "invalid_image",
            Self::NoArch => "no_arch",
            Self::AgentBinary { .. } => "no_agent",
            Self::Kernel { .. } | Self::KernelLacks { .. } => "invalid_kernel",
            Self::Kernels { source } => kernels_code(source),
            Self::CommandLine { .. } => "invalid_command_line",
            Self::Disk { .. } | Self::DiskFile { .. } => "disk",
            Self::Invalid { .. } => "invalid",
            Self::NoMonitor => "no_monitor",
            Self::MonitorStart { .. } => "monitor_start",
            Self::MonitorLost { .. } => "monitor_lost",
            Self::Control { source } => match source {
                ControlError::Unresponsive => "monitor_unresponsive",
                ControlError::OtherVersion { .. } | ControlError::OtherProgram { .. } => "monitor_version",
                _ => "monitor_protocol",
            },
            Self::Cancelled => "cancelled",
            Self::Ended { end } => end.reason.code(),
            Self::NotRunning { .. } => "not_running",
            Self::NotReady { .. } => "not_ready",
            Self::Paused { .. } => "paused",
            Self::NoBalloon { .. } => "no_balloon",
            Self::OldMonitor { .. } => "monitor_version",
            Self::AlreadyRunning { .. } => "already_running",
            Self::Running { .. } | Self::MustStop { .. } => "running",
            Self::NoSnapshot { .. } => "no_snapshot",
            Self::CommandNotFound { .. } => "command_not_found",
            Self::CommandNotExecutable { .. } => "command_not_executable",
            Self::HostFile { .. } => "host_file",
            Self::GuestFile { kind, .. } => match kind {
                ErrorKind::NoSuchFile => "no_such_file",
                ErrorKind::NotPermitted => "not_permitted",
                ErrorKind::NoSpace => "no_space",
                ErrorKind::UnfitFile => "unfit_file",
                ErrorKind::BadArchive => "bad_archive",
                ErrorKind::IsFolder => "is_folder",
                ErrorKind::NotFolder => "not_folder",
                ErrorKind::FileExists => "file_exists",
                ErrorKind::FolderNotEmpty => "folder_not_empty",
                ErrorKind::NameTooLong => "name_too_long",
                ErrorKind::ReadOnly => "read_only",
                _ => "guest_file",
            },
            Self::CopyLimit { .. } => "copy_limit",
            Self::PoolTimeout { .. } => "pool_timeout",
            Self::Agent { source } => agent_code(source),
            Self::System { .. } => "system",
        }
    }

    /// What to do about it, in a sentence or a command.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home { source } => source.hint(),
            Self::Image { source } => source.hint(),
            Self::Agent { source: AgentError::Refusal { kind: ErrorKind::NoSuchProcess, .. } } => {
                Some("vmm processes, with the VM's name, lists those there are".to_owned())
            }
            Self::ImageInUse { users, .. } => Some(format!("remove first: vmm rm {}", users.join(" "))),
            Self::NoMonitor => {
                Some("put it beside your program or on PATH, or name it by VMM_BIN".to_owned())
            }
            Self::Control { source: ControlError::Unresponsive } => {
                Some("end it by force: vmm kill, then the VM's name".to_owned())
            }
            Self::Control { source: ControlError::OtherVersion { .. } } => {
                Some("use the vmm that started it, or restart the VM with this one".to_owned())
            }
            Self::Control { source: ControlError::OtherProgram { .. } } => {
                Some("install the one of this version, or name it by VMM_BIN".to_owned())
            }
            Self::KernelLacks { path, .. } => {
                Some(format!("vmm kernel check {} names all that it lacks", path.display()))
            }
            Self::Ended { end } => end.hint.clone(),
            Self::NotRunning { name } => Some(format!("start it: vmm start {name}")),
            Self::Running { name } => {
                Some(format!("vmm stop {name}, or remove it by force: vmm rm -f {name}"))
            }
            Self::MustStop { name } => Some(format!("vmm stop {name}")),
            Self::Paused { name } => Some(format!("let it go on: vmm resume {name}")),
            Self::NoSnapshot { vm, nearest: None, .. } => {
                Some(format!("see which there are: vmm snapshot list {vm}"))
            }
            Self::NoBalloon { .. } => Some("a VM gets one when it is created: vmm run --balloon".to_owned()),
            Self::OldMonitor { name } => Some(format!("restart it: vmm stop {name} && vmm start {name}")),
            Self::NotReady { name } => Some(format!("see how far it is: vmm logs -f {name}")),
            _ => None,
        }
    }

    /// The last lines of the guest's console, where they say something about it.
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Self::Ended { end } if !end.console_tail.is_empty() => Some(&end.console_tail),
            _ => None,
        }
    }
}

fn image_code(error: &ImageError) -> &'static str {
    match error {
        ImageError::Unknown { .. } => "image_unknown",
        ImageError::NotPulled { .. } => "image_missing",
        ImageError::Damaged { .. } | ImageError::DamagedLayer { .. } => "image_damaged",
        ImageError::Offline { .. } => "offline",
        ImageError::NoPip { .. } => "no_pip",
        ImageError::Cancelled { .. } => "cancelled",
        ImageError::Download { .. } => "download",
        ImageError::NotPublished { .. } | ImageError::NoChecksum { .. } | ImageError::Mismatch { .. } => {
            "image_checksum"
        }
        ImageError::TrustChanged { .. } => "image_untrusted",
        ImageError::FileChanged { .. } => "base_changed",
        ImageError::Customise { .. } => "image_customise",
        ImageError::Incompatible { .. } | ImageError::IncompatibleSystem { .. } => "image_incompatible",
        ImageError::Busy => "busy",
        _ => "image",
    }
}

fn kernels_code(error: &KernelsError) -> &'static str {
    match error {
        KernelsError::Unknown { .. } => "no_such_kernel",
        KernelsError::InUse { .. } => "kernel_in_use",
        KernelsError::Exists { .. } => "kernel_exists",
        KernelsError::Damaged { .. } => "kernel_damaged",
        KernelsError::Tools { .. } => "no_tool",
        KernelsError::Cancelled => "cancelled",
        KernelsError::Image { source } => image_code(source),
        KernelsError::Name { .. } | KernelsError::NotAKernel { .. } => "invalid_kernel",
        KernelsError::Source { .. } | KernelsError::Version { .. } => "invalid_source",
        _ => "kernel",
    }
}

fn agent_code(error: &AgentError) -> &'static str {
    match error {
        AgentError::Deadline { .. } => "agent_timeout",
        AgentError::OtherVersion { .. } | AgentError::TooOld { .. } => "agent_version",
        AgentError::Refusal { kind, .. } => match kind {
            ErrorKind::NoSuchProcess => "no_such_process",
            ErrorKind::Ended => "process_ended",
            ErrorKind::NoTerminal => "no_terminal",
            ErrorKind::WorkingDirectory => "working_directory",
            ErrorKind::NoSuchUser => "no_such_user",
            ErrorKind::Resources => "guest_resources",
            ErrorKind::ShuttingDown => "shutting_down",
            ErrorKind::Busy => "guest_busy",
            _ => "agent_refused",
        },
        AgentError::TooLarge { .. } => "too_large",
        AgentError::Detached => "detached",
        error if error.is_unreachable() => "agent_lost",
        _ => "agent_protocol",
    }
}

/// An error and all its causes in one line; a cause whose text the error above it already ends with is not repeated.
pub fn error_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<ControlError> for Error {
    fn from(source: ControlError) -> Self {
        match source {
            ControlError::Cancelled => Self::Cancelled,
            ControlError::Lost => Self::MonitorLost { said: None },
            source => Self::Control { source },
        }
    }
}
