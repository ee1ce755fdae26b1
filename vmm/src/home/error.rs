//! What can go wrong with a home and the VMs in it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use snafu::Snafu;

use super::{InvalidName, VmName};

/// What makes a folder unsafe to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// It is something else.
    NotAFolder,
    /// It is another user's.
    Foreign {
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may enter it.
    Open,
    /// Others may enter it, and it holds things that are not ours: closing it would take those away from them.
    Shared,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFolder => f.write_str("it is not a folder"),
            Self::Foreign { owner, us } => write!(f, "it belongs to user {owner}, and we are user {us}"),
            Self::Open => f.write_str("others may enter it"),
            Self::Shared => f.write_str("others may enter it, and it holds other things than vmm's"),
        }
    }
}

/// Why a home or a VM in it could not be used.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(crate)))]
pub enum HomeError {
    /// Neither `VMM_HOME` nor `HOME` says where the home is.
    #[snafu(display("no folder to keep images and VMs in: neither VMM_HOME nor HOME is set"))]
    NoDataFolder,
    /// A folder cannot be made or used.
    #[snafu(display("cannot use the folder {}", path.display()))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A folder belongs to another user, or others may enter it.
    #[snafu(display("the folder {} is not safe to use: {danger}", path.display()))]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        danger: Danger,
    },
    /// A file cannot be written.
    #[snafu(display("cannot write {}", path.display()))]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be read.
    #[snafu(display("cannot read {}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of a VM does not hold what it should.
    #[snafu(display("{} is damaged", path.display()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// No socket can have so long a path.
    #[snafu(display(
        "the path {} is too long for a socket: set XDG_RUNTIME_DIR to a shorter one", path.display()
    ))]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// A VM's name is none.
    #[snafu(context(false), display("{source}"))]
    Name {
        /// The rule.
        #[snafu(source)]
        source: InvalidName,
    },
    /// Another VM has the name.
    #[snafu(display("the name {name} is in use"))]
    NameInUse {
        /// The name.
        name: VmName,
    },
    /// No VM has the name or id.
    #[snafu(display("there is no VM {wanted:?}{}", nearest.as_ref().map(|name| format!(": did you mean {name}?")).unwrap_or_default()))]
    NoSuchVm {
        /// What was asked for.
        wanted: String,
        /// A name that is nearly the same.
        nearest: Option<String>,
    },
    /// Several ids begin so.
    #[snafu(display("{prefix:?} begins the id of more than one VM: give more of it"))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
    },
    /// Another process holds the VM's lock: it starts, runs or is being removed.
    #[snafu(display("the VM {name} is in use: it runs, or another command is at work on it"))]
    Busy {
        /// The VM.
        name: String,
    },
}

impl HomeError {
    /// A stable word for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoDataFolder | Self::Folder { .. } | Self::Unsafe { .. } | Self::SocketPath { .. } => {
                "home_unusable"
            }
            Self::Write { .. } => "home_write",
            Self::Read { .. } => "home_read",
            Self::Damaged { .. } => "home_damaged",
            Self::Name { .. } => "invalid_name",
            Self::NameInUse { .. } => "name_in_use",
            Self::NoSuchVm { .. } => "no_such_vm",
            Self::Ambiguous { .. } => "ambiguous_id",
            Self::Busy { .. } => "vm_busy",
        }
    }

    /// What to do about it, in a sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDataFolder => Some("set VMM_HOME to a folder that you may write to".to_owned()),
            Self::Folder { source, .. } | Self::Write { source, .. } => Some(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space there, or set VMM_HOME to a folder on another disk".to_owned()
                }
                _ => "set VMM_HOME to a folder that you may write to".to_owned(),
            }),
            Self::Unsafe { path, danger: Danger::Open } => {
                Some(format!("make it yours alone: chmod 700 {}", path.display()))
            }
            Self::Unsafe { danger: Danger::Shared, .. } => {
                Some("set VMM_HOME to a new folder, such as one within it".to_owned())
            }
            Self::Unsafe { .. } => Some(
                "name a folder of your own: VMM_HOME for everything, XDG_RUNTIME_DIR for sockets".to_owned(),
            ),
            Self::NameInUse { name } => {
                Some(format!("choose another name, or remove the VM that has it: vmm rm {name}"))
            }
            Self::NoSuchVm { nearest: None, .. } => Some("vmm ps lists the VMs there are".to_owned()),
            Self::Damaged { path, .. } => {
                let id = path.parent().and_then(Path::file_name)?;
                Some(format!("remove the VM that it belongs to: vmm rm {}", id.display()))
            }
            _ => None,
        }
    }
}
