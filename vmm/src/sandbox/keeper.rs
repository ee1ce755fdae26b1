//! Starting a VM again that ended though nobody asked for it: a process of its own for each VM with a restart policy.
//!
//! It is no part of the monitor, for that may be what died; and the monitor's threads are held to system calls that start
//! nothing. It waits for the VM's end at the control socket like any client. Whoever stops, kills or removes the VM, or
//! starts it by hand, ends its keeper first: so what was asked for is never undone.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use snafu::ResultExt;
use vmm_sys::FileLock;
use vmm_sys::process::Process;

use super::error::SystemSnafu;
use super::program::{MonitorProgram, spawn};
use super::{Error, Sandbox, StartOptions, start as starting};
use crate::control::Connection;
use crate::home::{End, Home, HomeError, RestartPolicy, VmFolder, VmId, VmSpec, read_json, write_partial};

/// The first argument of the executable that makes it a keeper. The VM's folder is its working folder, and the open and
/// locked file `keeper.lock` its standard input.
pub const ARGUMENT: &str = "keep";

/// Held for as long as the keeper lives.
const LOCK: &str = "keeper.lock";

/// What the keeper is to know, and what others can know of it.
const RECORD: &str = "keeper.json";

/// How long it waits before it starts a VM that failed for the first time, and at most after many times.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A VM that ran for so long failed for the first time again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// How long a keeper that is killed may take to be gone.
const DISMISSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of a keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keeper {
    /// Its process; 0 while it begins.
    pid: u32,
    /// How many times in a row it started the VM.
    pub(super) restarts: u32,
    executable: PathBuf,
    seccomp: bool,
    ready_timeout: Duration,
}

/// The VM's keeper, if it has one.
pub(super) fn look(folder: &VmFolder, spec: &VmSpec) -> Option<Keeper> {
    if spec.restart == RestartPolicy::No {
        return None;
    }
    // Together with others who look: only the keeper has it alone.
    let free = FileLock::try_shared(&folder.path().join(LOCK)).ok()?.is_some();
    if free { None } else { read_json(&folder.path().join(RECORD)).ok().flatten() }
}

/// Ends the VM's keeper, if it has one, and returns when it is gone.
pub(super) fn dismiss(folder: &VmFolder) -> Result<(), Error> {
    if folder.path().join(LOCK).exists() {
        let _lock = take_over(folder)?;
        forget(&folder.path());
    }
    Ok(())
}

/// The same. There is no keeper while what is returned is held.
#[expect(clippy::disallowed_methods, reason = "a lock cannot be waited for with a deadline")]
fn take_over(folder: &VmFolder) -> Result<FileLock, Error> {
    let path = folder.path().join(LOCK);
    let what = || format!("end the process that starts the VM {} again", folder.id());
    let deadline = Instant::now() + DISMISSAL_TIMEOUT;
    loop {
        let lock = FileLock::try_exclusive(&path).with_context(|_| SystemSnafu { what: what() })?;
        if let Some(lock) = lock {
            return Ok(lock);
        }
        let keeper: Option<Keeper> = read_json(&folder.path().join(RECORD))?;
        let process = keeper.map(|keeper| Process::open(keeper.pid)).transpose();
        let process = process.with_context(|_| SystemSnafu { what: what() })?.flatten();
        // The number is the keeper's only if the lock is held still: whoever holds it wrote it.
        let held = FileLock::try_shared(&path).is_ok_and(|lock| lock.is_none());
        if let Some(process) = process.filter(|_| held) {
            process.kill().with_context(|_| SystemSnafu { what: what() })?;
            process.wait(DISMISSAL_TIMEOUT).with_context(|_| SystemSnafu { what: what() })?;
        } else if Instant::now() > deadline {
            return Err(HomeError::Busy { name: folder.id().to_string() }.into());
        } else {
            // Somebody looks at the lock, or the keeper is about to say who it is.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Has a VM that was just started be kept.
pub(super) fn start(
    program: &MonitorProgram,
    folder: &VmFolder,
    options: &StartOptions,
) -> Result<(), Error> {
    let what = || format!("start the process that starts the VM {} again", folder.id());
    let lock = take_over(folder)?;
    let keeper = Keeper {
        pid: 0,
        restarts: 0,
        executable: program.path.clone(),
        seccomp: options.seccomp,
        ready_timeout: options.ready_timeout,
    };
    keeper.record(&folder.path())?;
    let its_lock = lock.file().try_clone().with_context(|_| SystemSnafu { what: what() })?;
    let mut command = Command::new(&program.path);
    command
        .args(program.keeper_arguments())
        .current_dir(folder.path())
        .stdin(Stdio::from(OwnedFd::from(its_lock)))
        .stdout(Stdio::null());
    spawn(command, &folder.monitor_log()).with_context(|_| SystemSnafu { what: what() })?;
    lock.hand_over();
    Ok(())
}

/// The whole life of a keeper's process. To be called from `main`, before there are other threads.
pub fn main() -> ExitCode {
    let start = |executable: &Path, folder: &VmFolder, options: &StartOptions| {
        starting::again(&MonitorProgram::at(executable.to_owned()), folder, options)
    };
    match run(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::warn!("the VM is not kept any more: {}", super::error_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The same with another way to start a VM with the executable of the first time.
pub(crate) fn run(
    start: impl Fn(&Path, &VmFolder, &StartOptions) -> Result<Connection, Error>,
) -> Result<(), Error> {
    let what = || "become a process that keeps a VM".to_owned();
    vmm_sys::prepared_child::close_inherited().with_context(|_| SystemSnafu { what: what() })?;
    let path = std::env::current_dir().with_context(|_| SystemSnafu { what: what() })?;
    // Fails only for the leader of a group, which a shell makes of what it starts itself.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let folder = folder_at(&path)?;
    let Some(mut keeper) = read_json::<Keeper>(&path.join(RECORD))? else {
        let message = "this is vmm's own process for a VM: it is not started by hand".to_owned();
        return Err(Error::Invalid { message });
    };
    keeper.pid = std::process::id();
    keeper.record(&path)?;
    let executable = keeper.executable.clone();
    let outcome = keep(&folder, &mut keeper, &|folder, options| start(&executable, folder, options));
    forget(&path);
    outcome
}

/// Removes what is known of a keeper that is none any more. Whoever listens to the VM looks at it by that.
fn forget(folder: &Path) {
    // One that stays is nobody's: the lock is free.
    let _ = fs::remove_file(folder.join(RECORD));
}

/// The VM whose folder this is.
fn folder_at(path: &Path) -> Result<VmFolder, Error> {
    let home = path.parent().and_then(Path::parent).unwrap_or(path);
    let id = path.file_name().unwrap_or_default().to_string_lossy();
    let id = VmId::try_from(id.into_owned()).map_err(HomeError::from)?;
    Ok(Home::open(home)?.folder(&id))
}

/// Starts the VM again for as long as its policy says so.
#[expect(
    clippy::disallowed_methods,
    reason = "there is nothing to wait for but the time: who ends this, kills it"
)]
fn keep(
    folder: &VmFolder,
    keeper: &mut Keeper,
    start: &dyn Fn(&VmFolder, &StartOptions) -> Result<Connection, Error>,
) -> Result<(), Error> {
    let sandbox = Sandbox::of(folder.clone(), None);
    let options =
        StartOptions::default().detached(true).seccomp(keeper.seccomp).ready_timeout(keeper.ready_timeout);
    let mut pause = FIRST_PAUSE;
    // When it was last started; nothing while that fails, for then no run has ended.
    let mut began = Some(Instant::now());
    loop {
        let end = end_of(&sandbox)?;
        if began.is_some_and(|began| began.elapsed() >= LONG_ENOUGH) {
            keeper.restarts = 0;
            pause = FIRST_PAUSE;
        }
        let Some(spec) = folder.spec()? else { return Ok(()) };
        if !spec.restart.wants(&end, keeper.restarts) {
            return Ok(());
        }
        tracing::info!(?pause, "{}: the VM is started again", end.message);
        std::thread::sleep(pause);
        pause = LONGEST_PAUSE.min(pause * 2);
        keeper.restarts += 1;
        keeper.record(&folder.path())?;
        let started = start(folder, &options);
        began = started.is_ok().then(Instant::now);
        match started {
            Ok(_) => {}
            // Whoever has it meanwhile lets go of it at some time.
            Err(error) if folder.is_held()? => tracing::info!("somebody else has the VM: {error}"),
            Err(error) => tracing::warn!("the VM cannot be started again: {}", super::error_line(&error)),
        }
    }
}

/// Waits for the end of the VM.
fn end_of(sandbox: &Sandbox) -> Result<End, Error> {
    match sandbox.link.wait(None) {
        // Its monitor was killed before we looked.
        Err(error @ Error::NotRunning { .. }) => sandbox.info()?.end.ok_or(error),
        outcome => outcome,
    }
}

impl Keeper {
    fn record(&self, folder: &Path) -> Result<(), Error> {
        let (path, partial) = (folder.join(RECORD), folder.join("keeper.partial"));
        write_partial(&partial, self)?;
        fs::rename(&partial, &path)
            .with_context(|_| SystemSnafu { what: format!("write {}", path.display()) })
    }
}
