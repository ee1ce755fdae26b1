//! The folder where everything of vmm lies, and in it the folder of each VM. A small module that `sandbox` and
//! `monitor` both use: neither sees the other, they meet here and at the control socket.
//!
//! ```text
//! VMM_HOME/            0700
//!   images/  layers/  downloads/   the image store's
//!   kernels/           kernels that were built here, and which of them boots what
//!   cache/             what can be found out again
//!   names/<name>       symbolic link to ../vms/<id>: made atomically, so a name has one owner
//!   projects/<id>/     what is remembered of a project: project.json  lock
//!   vms/<id>/          spec.json  state.json  owns.json  console.log  monitor.log  lock
//! runtime folder/<home>/<id>/   control, vsock: the sockets of a VM that runs
//! ```
//!
//! May depend on: `machine`, `engine` (the name of the engine that is asked for), `vmm-protocol`, `vmm-sys`. Never on
//! `monitor`, `sandbox`, `image`.

mod console_times;
mod error;
mod files;
mod folder;
mod name;
mod registry;
mod rename;
mod runtime;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod time;
mod upkeep;

pub use console_times::{CONSOLE_TIME_INTERVAL, ConsoleTime};
pub use error::{Danger, HomeError};
pub(crate) use files::{private_folder, read_json, sync, write_partial};
pub(crate) use folder::KEPT;
pub use folder::{HeldVm, VmFolder};
pub use name::{InvalidName, VmId, VmName};
pub use registry::nearest_name;
pub use spec::{DEFAULT_STOP_GRACE, Init, Snapshot, UnknownInit, VmSpec};
pub use state::{End, EndReason, GuestTimings, StateRecord, Timings, VmState};
pub use time::Timestamp;
pub(crate) use time::date_of;
pub use upkeep::{
    HealthCheck, HealthReport, HealthStatus, InvalidHealthCheck, RestartPolicy, UnknownRestartPolicy,
};

pub use crate::engine::EngineChoice;

use std::path::{Path, PathBuf};

use snafu::OptionExt;

use error::NoDataFolderSnafu;

/// The first line of a console log that continues an older one ([`VmFolder::console_log_older`]), or what was dropped.
pub const CONTINUED: &[u8] = b"[vmm: older console output was dropped here]\n";

/// A handle on a folder with everything in it: images, layers, VMs. Cloning it is cheap; there is no global state.
///
/// ```no_run
/// let home = vmm::Home::open_default()?;
/// println!("{}", home.root().display());
/// # Ok::<(), vmm::home::HomeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    runtime: PathBuf,
}

impl Home {
    /// Opens `VMM_HOME`, or else the platform's folder for a user's data, and makes it where it is missing.
    pub fn open_default() -> Result<Self, HomeError> {
        Self::open(default_root().context(NoDataFolderSnafu)?)
    }

    /// Opens a folder as home and makes what is missing in it. Fails where it cannot be written, is another
    /// user's, or is a folder in general use.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, HomeError> {
        let root = std::path::absolute(root.as_ref())
            .map_err(|source| HomeError::Folder { path: root.as_ref().to_owned(), source })?;
        files::private_folder_all(
            &root,
            &["vms", "names"],
            &["images", "layers", "downloads", "kernels", "cache", "vms", "names", "projects"],
        )?;
        let folders = ["vms", "names"].map(|folder| root.join(folder));
        let is_new = !folders.iter().all(|folder| folder.exists());
        folders.iter().try_for_each(|folder| files::private_folder(folder))?;
        if is_new {
            // What is told to be there later is found by these names.
            files::sync(&[&root])?;
            // And by its own, where the folder above may be read.
            let _ = root.parent().map(|above| files::sync(&[above]));
        }
        let runtime = runtime::folder_of(&root)?;
        Ok(Self { root, runtime })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where to remember what can be found out again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// What is remembered of projects.
    pub(crate) fn projects(&self) -> PathBuf {
        self.root.join("projects")
    }

    /// The folders of the VMs.
    pub(crate) fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    /// The links from names to VMs.
    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Where the sockets of this home's VMs lie.
    pub(crate) fn runtime(&self) -> &Path {
        &self.runtime
    }
}

/// `VMM_HOME`, or `vmm` in the platform's folder for a user's data.
fn default_root() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = variable("VMM_HOME") {
        return Some(home);
    }
    if let Some(data) = variable("XDG_DATA_HOME").filter(|data| data.is_absolute()) {
        return Some(data.join("vmm"));
    }
    let home = variable("HOME").filter(|home| home.is_absolute())?;
    let data = if std::env::consts::OS == "macos" { "Library/Application Support" } else { ".local/share" };
    Some(home.join(data).join("vmm"))
}
