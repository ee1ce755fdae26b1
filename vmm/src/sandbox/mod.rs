//! The embedding API: VMs to run code in, commands in them, what becomes of them.
//!
//! The command line is a thin client of this module; a program can do all that it does. A VM's own process, the
//! monitor, is another one: this module finds and starts it and talks to it over its control socket.
//!
//! May depend on: `agent`, `image`, `machine`, `home`, `control`, `arch`. Never on `monitor`, `engine`.

mod builder;
mod cancel;
mod command;
mod error;
mod info;
mod logs;
mod process;
mod progress;

pub use builder::{PullPolicy, SandboxBuilder, StartOptions};
pub use cancel::CancelToken;
pub use command::{Command, Stdin};
pub use error::Error;
pub use info::VmInfo;
pub use logs::ConsoleLog;
pub use process::{
    ExitStatus, Output, Process, ProcessControl, ProcessId, ProcessOutput, ProcessStdin, TerminalSize,
};
pub use progress::Progress;

use std::time::Duration;

use crate::home::{End, Home, VmId};

/// How long a guest may take to shut down, unless it is told otherwise.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// A VM that runs, or one that ran.
///
/// The handle that a start returns owns the VM, unless it was started detached: dropping it stops the VM, as does
/// the end of this process, however it comes.
///
/// ```no_run
/// use vmm::Sandbox;
///
/// let sandbox = Sandbox::builder("alpine").start()?;
/// let output = sandbox.command(["cat", "/etc/os-release"]).output()?;
/// print!("{}", String::from_utf8_lossy(&output.stdout));
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Debug)]
pub struct Sandbox {
    id: VmId,
    name: String,
}

impl Sandbox {
    /// Describes a new VM from an image, to be started with [`SandboxBuilder::start`].
    pub fn builder(image: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(image.into())
    }

    /// Starts a VM that was created before and does not run, by name, id or the beginning of its id.
    pub fn start(_home: &Home, _name: &str, _options: StartOptions) -> Result<Self, Error> {
        Err(Error::Unfinished)
    }

    /// Takes a handle on a VM, whether it runs or not, by name, id or the beginning of its id. The handle does not
    /// own it.
    pub fn attach(_home: &Home, _name: &str) -> Result<Self, Error> {
        Err(Error::Unfinished)
    }

    /// What is known of every VM. A monitor that hangs does not hold it up: it is told as unresponsive.
    pub fn list(_home: &Home) -> Result<Vec<VmInfo>, Error> {
        Err(Error::Unfinished)
    }

    /// Its id.
    pub fn id(&self) -> &VmId {
        &self.id
    }

    /// What to call it: its name, or else its id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known of it now.
    pub fn info(&self) -> Result<VmInfo, Error> {
        Err(Error::Unfinished)
    }

    /// A command to run in it.
    pub fn command<A: Into<String>>(&self, argv: impl IntoIterator<Item = A>) -> Command<'_> {
        Command::new(self, argv.into_iter().map(Into::into).collect())
    }

    /// Goes back to a process that was started before: its output from now on, after a bounded part of what it
    /// wrote meanwhile.
    pub fn attach_process(&self, _id: &ProcessId) -> Result<Process, Error> {
        Err(Error::Unfinished)
    }

    /// Shuts it down in order and returns when everything of it is gone. A guest that takes longer than `grace` is
    /// stopped as by pulling the plug. One without a name is removed by that.
    pub fn stop(&self, _grace: Duration) -> Result<End, Error> {
        Err(Error::Unfinished)
    }

    /// Stops it as by pulling the plug, and returns when everything of it is gone. Where not even its monitor
    /// answers, that is killed.
    pub fn kill(&self) -> Result<End, Error> {
        Err(Error::Unfinished)
    }

    /// Removes it, its disk and its logs. One that runs is only removed with `force`, which kills it first.
    pub fn remove(self, _force: bool) -> Result<(), Error> {
        Err(Error::Unfinished)
    }

    /// Waits until it has ended.
    pub fn wait(&self, _cancel: Option<&CancelToken>) -> Result<End, Error> {
        Err(Error::Unfinished)
    }

    /// Reads what it wrote to its console; with `follow`, goes on until it has ended.
    pub fn logs(&self, _follow: bool) -> Result<ConsoleLog, Error> {
        Err(Error::Unfinished)
    }
}
