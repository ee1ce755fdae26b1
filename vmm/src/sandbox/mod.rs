//! The embedding API: VMs to run code in, commands in them, what becomes of them.
//!
//! The command line is a thin client of this module; a program can do all that it does. A VM's own process, the
//! monitor, is another one: this module finds and starts it and talks to it over its control socket.
//!
//! May depend on: `agent`, `image`, `machine`, `home`, `control`, `arch`. Never on `monitor`, `engine`.

mod builder;
mod cancel;
mod command;
mod console;
mod customise;
mod disk;
mod error;
mod events;
mod files;
mod foresee;
mod images;
mod info;
mod inspect;
pub mod keeper;
mod kernel;
pub(crate) mod launch;
mod link;
mod log_position;
mod logs;
mod metrics;
mod pool;
mod process;
pub(crate) mod program;
mod progress;
mod prune;
mod reconfigure;
mod rename;
mod service;
pub(crate) mod start;
mod stats;
mod timeline;

pub use crate::agent::{
    ByteString, Change, ChangeKind, FileInfo, FileKind, FolderEntry, GuestProcess, Health, KernelRecord,
    ProcessId, ProcessInfo, ProcessOutput, ProcessStdin, ProcessTail, Signal, TerminalSize,
};
pub use crate::control::Balloon;
pub use crate::home::{HealthCheck, HealthReport, HealthStatus, RestartPolicy};
pub use builder::{BootProfileUse, PullPolicy, RootWrites, SandboxBuilder, StartOptions};
pub use cancel::CancelToken;
pub use command::{Command, Stdin};
pub use console::Console;
pub use customise::{ImagePull, PulledImage};
pub use disk::{
    Cloned, Committed, DiskCheck, DiskFile, DiskSize, DiskSizeError, DiskSpace, ExtraDisk, SnapshotInfo,
};
pub use error::{Error, error_line};
pub use events::{Events, Happened, VmEvent};
pub use files::{Copied, CopyOptions, CopyOwner, FolderEntries, Watch};
pub use images::{image_users, prune_images, remove_image, remove_unreadable_image};
pub use info::VmInfo;
pub use inspect::{DiskDetails, LayerDetails, VmDetails};
pub use kernel::remove_kernel;
pub use logs::{ConsoleLog, LogOptions};
pub use metrics::{MetricsPlace, prometheus_text, serve_metrics};
pub use pool::{PoolBuilder, SandboxPool};
pub use process::{ExitStatus, Output, Process, ProcessControl, ProcessEvent};
pub use progress::Progress;
pub use prune::{PrunedVm, prune_vms, stopped_vms};
pub use service::{ServiceRestart, ServiceScope, ServiceUnit};
pub use stats::{HostCosts, VmStats};
pub use timeline::{Moment, Step, Timeline};

pub use crate::home::DEFAULT_STOP_GRACE;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::AttachSpec;
use crate::control::{Connection, ControlError};
use crate::home::{End, EndReason, HeldVm, Home, HomeError, Timestamp, VmFolder, VmId, VmState};
use link::Link;

/// How long a VM that is dropped may take to be gone.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a monitor that is to kill its machine may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A VM that runs, or one that ran.
///
/// The handle that a start returns owns the VM, unless it was started detached: dropping it stops the VM, as does
/// the end of this process, however it comes. A VM without a name leaves nothing behind.
///
/// ```no_run
/// use vmm::Sandbox;
///
/// let sandbox = Sandbox::builder("alpine").start()?;
/// let output = sandbox.command(["cat", "/etc/os-release"]).output()?;
/// print!("{}", String::from_utf8_lossy(&output.stdout));
/// # Ok::<(), vmm::Error>(())
/// ```
///
/// A VM that stays has a name, and is found again by it:
///
/// ```no_run
/// use vmm::{Home, Sandbox};
///
/// Sandbox::builder("alpine").name("box").detached(true).start()?;
/// let sandbox = Sandbox::attach(&Home::open_default()?, "box")?;
/// sandbox.command(["touch", "/kept"]).output()?;
/// sandbox.stop(vmm::DEFAULT_STOP_GRACE)?;
/// # Ok::<(), vmm::Error>(())
/// ```
#[derive(Debug)]
pub struct Sandbox {
    link: Arc<Link>,
}

impl Sandbox {
    /// Describes a new VM from an image, to be started with [`SandboxBuilder::start`].
    pub fn builder(image: impl Into<String>) -> SandboxBuilder {
        SandboxBuilder::new(image.into())
    }

    /// Starts a VM that was created before and does not run, by name, id or the beginning of its id.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for one start, in the call")]
    pub fn start(home: &Home, name: &str, options: StartOptions) -> Result<Self, Error> {
        start::existing(home, name, &options)
    }

    /// Makes a VM that does not run what a builder describes, from its next start on: processors, memory, engine,
    /// environment, all but its name, its image and its disk, which stay. Fails where the builder's image is another.
    pub fn reconfigure(home: &Home, name: &str, builder: &SandboxBuilder) -> Result<(), Error> {
        reconfigure::reconfigure(home, name, builder)
    }

    /// Takes a handle on a VM, whether it runs or not, by name, id or the beginning of its id. The handle does not
    /// own it.
    pub fn attach(home: &Home, name: &str) -> Result<Self, Error> {
        Ok(Self::of(home.find(name)?, None))
    }

    /// What is known of every VM. A monitor that hangs does not hold it up: it is told as unresponsive. What is left
    /// of VMs whose monitor was killed is cleared away.
    pub fn list(home: &Home) -> Result<Vec<VmInfo>, Error> {
        home.clear_leftovers()?;
        info::look_at_all(home)
    }

    /// What happens to the VMs of a home from now on. Cancelling the token ends the iterator.
    pub fn events(home: &Home, cancel: Option<&CancelToken>) -> Result<Events, Error> {
        Events::new(home, cancel)
    }

    /// A handle on a VM that is there. With a lifeline it is ours.
    pub(crate) fn of(folder: VmFolder, lifeline: Option<Connection>) -> Self {
        // Where nobody can read what it is, its id is what to call it.
        let spec = folder.spec().ok().flatten();
        let name = spec.map_or_else(|| folder.id().to_string(), |spec| spec.display_name().to_owned());
        Self { link: Arc::new(Link::new(folder, name, lifeline)) }
    }

    /// Its id.
    pub fn id(&self) -> &VmId {
        self.link.folder().id()
    }

    /// What to call it: its name, or else its id.
    pub fn name(&self) -> &str {
        self.link.name()
    }

    /// What is known of it now.
    pub fn info(&self) -> Result<VmInfo, Error> {
        info::look_at(self.link.folder())?.ok_or_else(|| self.gone())
    }

    /// How its guest is: load, memory, disks, uptime.
    pub fn health(&self) -> Result<Health, Error> {
        self.link.agent()?.health().map_err(|error| self.link.explain(error, None))
    }

    /// What its guest is asked to do without of its memory, and what it does without.
    pub fn balloon(&self) -> Result<Balloon, Error> {
        self.link.balloon(None)
    }

    /// Asks its guest to do without so many bytes of its memory, which the host gets back; 0 gives all back to the
    /// guest. It complies when it can, and takes memory back by itself before it runs out: [`Sandbox::balloon`] tells
    /// how far it is.
    pub fn set_balloon(&self, bytes: u64) -> Result<Balloon, Error> {
        self.link.balloon(Some(bytes))
    }

    /// The processes that were started in it: those that run, and those that ended last.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        self.link.agent()?.processes().map_err(|error| self.link.explain(error, None))
    }

    /// What it costs its host, and how its guest is.
    pub fn stats(&self) -> Result<VmStats, Error> {
        Ok(stats::of(self, self.info()?))
    }

    /// The same of each VM of a home that runs.
    pub fn stats_of_all(home: &Home) -> Result<Vec<VmStats>, Error> {
        stats::of_all(home)
    }

    /// A command to run in it; without any word, the user's login shell.
    pub fn command<A: Into<ByteString>>(&self, argv: impl IntoIterator<Item = A>) -> Command<'_> {
        Command::new(self, argv.into_iter().map(Into::into).collect())
    }

    /// Goes back to a process that was started before: its output from now on, after a bounded part of what it
    /// wrote meanwhile. Whoever was attached to it before is let go.
    pub fn attach_process(&self, id: ProcessId) -> Result<Process, Error> {
        let client = self.link.agent()?;
        let terminal = client
            .processes()
            .map(|processes| processes.iter().any(|process| process.process == id && process.terminal));
        let attached = terminal.and_then(|terminal| Ok((terminal, client.attach(AttachSpec::to(id))?)));
        match attached {
            Ok((terminal, process)) => Ok(Process::new(process, self.link.clone(), terminal)),
            Err(error) => Err(self.link.explain(error, None)),
        }
    }

    /// The end of what a process wrote, of each stream as much as the agent keeps (64 KiB), and how it ended if it has.
    /// Whoever is attached to it stays.
    pub fn process_output(&self, id: ProcessId) -> Result<ProcessTail, Error> {
        self.link.agent()?.output(id).map_err(|error| self.link.explain(error, None))
    }

    /// Waits until a process that was started in it has ended; one that ended a while ago is forgotten at some time.
    pub fn wait_for_process(&self, id: ProcessId) -> Result<ExitStatus, Error> {
        let ended = self.link.agent()?.wait(id, None);
        ended.map(ExitStatus::from).map_err(|error| self.link.explain(error, None))
    }

    /// Has its processors stand still, and returns when they do. It keeps its memory, and answers nothing; connections to
    /// programs in it wait. One that stands still already is left so.
    pub fn pause(&self) -> Result<(), Error> {
        self.link.stand_still(true)
    }

    /// Lets its processors go on. Its clock is set to the host's then.
    pub fn resume(&self) -> Result<(), Error> {
        self.link.stand_still(false)
    }

    /// Shuts it down in order and returns when everything of it is gone. A guest that takes longer than `grace` is
    /// stopped as by pulling the plug. One without a name is removed by that.
    pub fn stop(&self, grace: Duration) -> Result<End, Error> {
        keeper::dismiss(self.link.folder())?;
        self.link.stop(grace)
    }

    /// How long its guest may take to shut down, where nobody says: as it was created with.
    pub fn stop_grace(&self) -> Result<Duration, Error> {
        Ok(self.link.folder().spec()?.map_or(DEFAULT_STOP_GRACE, |spec| spec.stop_grace()))
    }

    /// Stops it as by pulling the plug, and returns when everything of it is gone. A monitor that does not answer is
    /// killed.
    pub fn kill(&self) -> Result<End, Error> {
        keeper::dismiss(self.link.folder())?;
        match self.link.kill(KILL_TIMEOUT) {
            Err(Error::Control { .. }) => self.kill_monitor(),
            // It may be so young, or so stuck, that it does not listen.
            Err(Error::NotRunning { .. }) if self.link.folder().is_held().unwrap_or(false) => {
                self.kill_monitor()
            }
            outcome => outcome,
        }
    }

    fn kill_monitor(&self) -> Result<End, Error> {
        let folder = self.link.folder();
        let what = "kill the VM's monitor process";
        let record = folder.state()?;
        let listening = self.link.connect().ok().and_then(|connection| connection.peer_process());
        let recorded = record.as_ref().filter(|record| record.end.is_none()).map(|record| record.monitor_pid);
        let process = listening.or(recorded).map(vmm_sys::process::Process::open);
        let process =
            process.transpose().map_err(|source| Error::System { what: what.to_owned(), source })?.flatten();
        // The number is the monitor's only if the VM's lock is held still: it was recorded by the lock's holder.
        if let Some(process) = process.filter(|_| folder.is_held().unwrap_or(false)) {
            process.kill().map_err(|source| Error::System { what: what.to_owned(), source })?;
            process.wait(KILL_TIMEOUT).map_err(|source| Error::System { what: what.to_owned(), source })?;
        }
        let end = End {
            reason: EndReason::Killed,
            message: "it was killed with its monitor, which did not answer".to_owned(),
            hint: None,
            console_tail: String::new(),
            at: Timestamp::now(),
        };
        let held = match hold(folder, self.name()) {
            Ok(held) => held,
            Err(Error::Home { source: HomeError::NoSuchVm { .. } }) => return Ok(end),
            Err(error) => return Err(error),
        };
        held.remove_sockets_folder()?;
        match folder.spec()? {
            Some(spec) if !spec.ephemeral() => {
                if let Some(mut record) = record {
                    record.end = Some(end.clone());
                    held.write_state(&record)?;
                }
            }
            _ => held.remove()?,
        }
        Ok(end)
    }

    /// Removes it, its disk and its logs. One that runs is only removed with `force`, which kills it first.
    pub fn remove(&self, force: bool) -> Result<(), Error> {
        let folder = self.link.folder().clone();
        if !folder.is_held()? {
            keeper::dismiss(&folder)?;
        }
        if folder.is_held()? {
            if !force {
                return Err(Error::Running { name: self.name().to_owned() });
            }
            self.kill_for_good(&folder)?;
        }
        // How it ended need not be recorded any more, for which a full disk has no room.
        let mut held = hold_as_it_is(&folder, self.name());
        if force && matches!(held, Err(Error::AlreadyRunning { .. })) {
            // Its keeper had begun to start it again, and its monitor did not listen yet.
            self.kill_for_good(&folder)?;
            held = hold_as_it_is(&folder, self.name());
        }
        match held {
            Ok(held) => Ok(held.remove()?),
            // It had no name, and went when it ended.
            Err(Error::Home { source: HomeError::NoSuchVm { .. } }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Kills a VM of which nothing is to stay.
    fn kill_for_good(&self, folder: &VmFolder) -> Result<(), Error> {
        match self.kill() {
            Ok(_) | Err(Error::NotRunning { .. }) => Ok(()),
            Err(error) if folder.is_held()? => Err(error),
            // It has ended, and how need not be recorded any more: the disk may be full.
            Err(_) => Ok(()),
        }
    }

    /// Waits until its guest takes commands, when somebody else starts it. Fails where it ends before.
    pub fn wait_until_ready(&self, cancel: Option<&CancelToken>) -> Result<(), Error> {
        self.link.wait_until_ready(cancel)
    }

    /// Waits until it has ended, for good: an end after which it is started again by its restart policy does not count.
    pub fn wait(&self, cancel: Option<&CancelToken>) -> Result<End, Error> {
        let end = self.link.wait(cancel);
        let restarts = self.link.folder().spec()?.is_some_and(|spec| spec.restart != RestartPolicy::No);
        if !restarts || matches!(end, Err(Error::Cancelled)) {
            return end;
        }
        let mut events = Self::events(self.link.folder().home(), cancel)?;
        loop {
            let info = info::look_at(self.link.folder())?.ok_or_else(|| self.gone())?;
            if let (Some(end), false) = (info.end, info.state == VmState::Restarting) {
                return Ok(end);
            }
            // Of any VM: each is a reason to look again.
            events.next().transpose()?.ok_or(Error::Cancelled)?;
        }
    }

    /// Reads what it wrote to its console. A reader that follows goes on until it has ended, or until `cancel`.
    pub fn logs(&self, options: &LogOptions, cancel: Option<&CancelToken>) -> Result<ConsoleLog, Error> {
        let monitor = if options.follow { self.link.connect().ok() } else { None };
        ConsoleLog::open(self.link.folder(), monitor, options, cancel)
    }

    fn gone(&self) -> Error {
        Error::Home { source: HomeError::NoSuchVm { wanted: self.name().to_owned(), nearest: None } }
    }
}

impl Drop for Sandbox {
    /// Stops a VM that is ours, and returns when nothing of it is left.
    fn drop(&mut self) {
        self.link.release(RELEASE_TIMEOUT);
    }
}

/// How long another command may be at work on a VM that does not run: looking at it takes its lock for a moment.
const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// Records the end of a monitor that was killed: whoever reads its record while we have the VM must not take it for one
/// that runs, nor the process that has its number now for the monitor.
fn record_death(held: &HeldVm) -> Result<(), Error> {
    if let Ok(Some(mut record)) = held.folder().state()
        && record.end.is_none()
    {
        record.end = Some(link::monitor_killed(held.folder(), Some(record.clone())));
        held.write_state(&record)?;
    }
    Ok(())
}

/// Takes a VM's lock, with some patience. Fails where it runs.
pub(crate) fn hold(folder: &VmFolder, name: &str) -> Result<HeldVm, Error> {
    let held = hold_as_it_is(folder, name)?;
    record_death(&held)?;
    Ok(held)
}

/// The same, without looking at how it ended.
#[expect(clippy::disallowed_methods, reason = "a lock cannot be waited for with a deadline")]
fn hold_as_it_is(folder: &VmFolder, name: &str) -> Result<HeldVm, Error> {
    let deadline = Instant::now() + HOLD_TIMEOUT;
    loop {
        if let Some(held) = folder.try_hold()? {
            return Ok(held);
        }
        let sockets = folder.state()?.map_or_else(|| folder.sockets(), |record| record.sockets);
        match Connection::connect(&VmFolder::control_socket(&sockets)) {
            Err(ControlError::NotListening) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(ControlError::NotListening) => {
                return Err(Error::Home { source: HomeError::Busy { name: name.to_owned() } });
            }
            _ => return Err(Error::AlreadyRunning { name: name.to_owned() }),
        }
    }
}
