//! Doing what a plan says: VMs are created, changed and started, their scripts run, their health is waited for. What is
//! done is remembered step by step, so that whatever ends this, the next `up` goes on from there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use snafu::ResultExt;

use super::error::{MachineSnafu, ScriptSnafu, UnhealthySnafu};
use super::guest::{self, GuestOutcome};
use super::plan::{Action, LiveVm, MachinePlan, Plan, due_scripts};
use super::record::{HeldRecord, MachineRecord, slug};
use super::wait::Waiter;
use super::{ONLY_MACHINE, ProjectError};
use crate::home::{Home, VmState};
use crate::sandbox::{CancelToken, DiskFile, Error, Progress, Sandbox, SandboxBuilder, StartOptions};

/// Something that happens while a project's machines are brought up, stopped or destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectEvent {
    /// Another command is at work on the project: it is waited for.
    Waiting,
    /// The project's folder was elsewhere before; its VMs came along.
    Moved {
        /// Where it was.
        from: PathBuf,
    },
    /// A step of the start of a machine's VM.
    Starting {
        /// The machine.
        machine: String,
        /// The step.
        progress: Progress,
    },
    /// A machine's VM is shut down.
    Stopping {
        /// The machine.
        machine: String,
    },
    /// A script begins.
    Script {
        /// The machine.
        machine: String,
        /// What the script is called.
        script: String,
    },
    /// A script wrote something: the guest's bytes, as they are.
    Output {
        /// The machine.
        machine: String,
        /// What it wrote.
        bytes: Vec<u8>,
    },
    /// A machine is not healthy yet: it is waited for that.
    Checking {
        /// The machine.
        machine: String,
    },
    /// A machine is up.
    Up {
        /// The machine.
        machine: String,
        /// Nothing had to be done for it.
        already: bool,
    },
}

/// How a project's machines are brought up, stopped and destroyed.
#[derive(Clone)]
pub struct ProjectOptions {
    token: CancelToken,
    executable: Option<PathBuf>,
    seccomp: bool,
    observer: Arc<dyn Fn(&ProjectEvent) + Send + Sync>,
}

impl ProjectOptions {
    /// Cancelling this token ends whatever is done.
    pub fn new(token: &CancelToken) -> Self {
        Self { token: token.clone(), executable: None, seccomp: true, observer: Arc::new(|_| {}) }
    }

    /// The `vmm` executable that runs the VMs; see [`StartOptions::executable`].
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// Whether the VMs' monitors are held to their system calls; see [`StartOptions::seccomp`].
    pub fn seccomp(mut self, wanted: bool) -> Self {
        self.seccomp = wanted;
        self
    }

    /// Who is told what happens.
    pub fn observer(mut self, observer: impl Fn(&ProjectEvent) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    pub(super) fn tell(&self, event: &ProjectEvent) {
        (self.observer)(event);
    }

    pub(super) fn waiter(&self) -> Waiter<'_> {
        Waiter::new(&self.token)
    }

    fn start_options(&self, machine: &MachinePlan) -> StartOptions {
        let (observer, name) = (self.observer.clone(), machine.name.clone());
        let options = StartOptions::default()
            .detached(true)
            .ready_timeout(machine.ready.description.boot_timeout)
            .cancel_token(&self.token)
            .seccomp(self.seccomp)
            .progress(move |progress| {
                let progress = progress.clone();
                observer(&ProjectEvent::Starting { machine: name.clone(), progress });
            });
        match &self.executable {
            Some(executable) => options.executable(executable),
            None => options,
        }
    }
}

impl fmt::Debug for ProjectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectOptions").field("executable", &self.executable).finish_non_exhaustive()
    }
}

/// Whether what a plan says can be done, as far as that is known before anything is.
pub(super) fn foresee(home: &Home, held: &HeldRecord, plan: &Plan) -> Result<(), ProjectError> {
    for machine in &plan.machines {
        let builder = builder(home, held, machine);
        let foreseen = match machine.action {
            Action::Create | Action::Recreate => builder.foresee(),
            Action::Restart | Action::Start if !machine.changes.is_empty() => {
                builder.foresee_change(home, &machine.vm)
            }
            _ => Ok(()),
        };
        foreseen.map_err(failed(machine))?;
    }
    Ok(())
}

/// Does what a plan says.
pub(super) fn apply(
    home: &Home,
    held: &mut HeldRecord,
    plan: &Plan,
    options: &ProjectOptions,
) -> Result<(), ProjectError> {
    for machine in &plan.machines {
        options.waiter().check()?;
        bring_up(home, held, machine, options)?;
        let (machine, already) = (machine.name.clone(), machine.is_empty());
        options.tell(&ProjectEvent::Up { machine, already });
    }
    Ok(())
}

fn bring_up(
    home: &Home,
    held: &mut HeldRecord,
    machine: &MachinePlan,
    options: &ProjectOptions,
) -> Result<(), ProjectError> {
    // One that is there and not remembered is found by its name: it is remembered from now on.
    if matches!(machine.action, Action::Keep | Action::Start)
        && !held.record.machines.contains_key(&machine.name)
    {
        remembered(held, machine);
        held.save()?;
    }
    let sandbox = match machine.action {
        Action::Keep => ready(attach(home, machine)?, machine, options)?,
        Action::Create => create(home, held, machine, options)?,
        Action::Recreate => {
            // What cannot be had is known before a disk goes.
            let builder = builder(home, held, machine).options(options.start_options(machine));
            builder.fetch().map_err(failed(machine))?;
            stopping(machine, options);
            attach(home, machine)?.remove(true).map_err(failed(machine))?;
            create(home, held, machine, options)?
        }
        Action::Restart => {
            stopping(machine, options);
            let sandbox = attach(home, machine)?;
            let grace = sandbox.stop_grace().map_err(failed(machine))?;
            match sandbox.stop(grace) {
                // It ended by itself meanwhile.
                Ok(_) | Err(Error::NotRunning { .. }) => {}
                Err(error) => return Err(failed(machine)(error)),
            }
            start(home, held, machine, options)?
        }
        Action::Start => start(home, held, machine, options)?,
    };
    provision(held, machine, &sandbox, options)?;
    wait_until_healthy(machine, &sandbox, options)
}

fn stopping(machine: &MachinePlan, options: &ProjectOptions) {
    options.tell(&ProjectEvent::Stopping { machine: machine.name.clone() });
}

fn attach(home: &Home, machine: &MachinePlan) -> Result<Sandbox, ProjectError> {
    Sandbox::attach(home, &machine.vm).map_err(failed(machine))
}

/// What to say of a VM that could not be had.
fn failed(machine: &MachinePlan) -> impl Fn(Error) -> ProjectError + '_ {
    |error| match error {
        Error::Cancelled => ProjectError::Cancelled,
        source => ProjectError::Machine { machine: machine.name.clone(), source: Box::new(source) },
    }
}

/// What is remembered of a machine.
fn remembered<'a>(held: &'a mut HeldRecord, machine: &MachinePlan) -> &'a mut MachineRecord {
    let new = || MachineRecord { vm: machine.vm.clone(), ..MachineRecord::default() };
    held.record.machines.entry(machine.name.clone()).or_insert_with(new)
}

fn create(
    home: &Home,
    held: &mut HeldRecord,
    machine: &MachinePlan,
    options: &ProjectOptions,
) -> Result<Sandbox, ProjectError> {
    // Remembered before it is there, so that no death loses track of it.
    make_disks(machine)?;
    let applied = machine.ready.compared.clone();
    *remembered(held, machine) =
        MachineRecord { vm: machine.vm.clone(), applied, ..MachineRecord::default() };
    held.save()?;
    let start = options.start_options(machine);
    builder(home, held, machine).options(start).start().map_err(failed(machine))
}

/// Makes the disks that are to be made and are not there.
fn make_disks(machine: &MachinePlan) -> Result<(), ProjectError> {
    for (_, path, size) in &machine.ready.disks {
        if let Some(size) = size
            && !path.exists()
        {
            DiskFile::create(path, *size).map_err(failed(machine))?;
        }
    }
    Ok(())
}

fn start(
    home: &Home,
    held: &mut HeldRecord,
    machine: &MachinePlan,
    options: &ProjectOptions,
) -> Result<Sandbox, ProjectError> {
    let sandbox = attach(home, machine)?;
    if sandbox.info().map_err(failed(machine))?.state == VmState::Stopping {
        sandbox.wait(Some(options.waiter().token())).map_err(failed(machine))?;
    }
    make_disks(machine)?;
    if !machine.changes.is_empty() {
        let builder = builder(home, held, machine);
        Sandbox::reconfigure(home, &machine.vm, &builder).map_err(failed(machine))?;
        if let Some(size) = machine.ready.description.disk_size {
            sandbox.resize_disk(size).map_err(failed(machine))?;
        }
        remembered(held, machine).applied = machine.ready.compared.clone();
        held.save()?;
    }
    match Sandbox::start(home, &machine.vm, options.start_options(machine)) {
        // Somebody else was quicker.
        Err(Error::AlreadyRunning { .. }) => ready(sandbox, machine, options),
        started => started.map_err(failed(machine)),
    }
}

/// A VM that somebody else is starting, as soon as it is ready.
fn ready(sandbox: Sandbox, machine: &MachinePlan, options: &ProjectOptions) -> Result<Sandbox, ProjectError> {
    if sandbox.info().map_err(failed(machine))?.state == VmState::Starting {
        let progress = Progress::Booting;
        options.tell(&ProjectEvent::Starting { machine: machine.name.clone(), progress });
        sandbox.wait_until_ready(Some(options.waiter().token())).map_err(failed(machine))?;
    }
    Ok(sandbox)
}

/// A machine's description as one of a VM.
fn builder(home: &Home, held: &HeldRecord, machine: &MachinePlan) -> SandboxBuilder {
    let description = &machine.ready.description;
    let host_name = match &description.hostname {
        Some(name) => name.clone(),
        None if machine.name == ONLY_MACHINE => slug(&held.record.folder),
        None => machine.name.clone(),
    };
    let mut builder = Sandbox::builder(description.managed_image.to_string())
        .home(home)
        .name(&machine.vm)
        .host_name(host_name)
        .boot_profile(description.boot_profile)
        .root_writes(description.read_only)
        .cpus(description.cpus)
        .memory(description.memory)
        .engine(description.engine)
        .require_hardware(description.require_hardware)
        .nested(description.nested)
        .console(description.console)
        .balloon(description.balloon)
        .huge_pages(description.huge_pages)
        .init(description.init)
        .command_line(&description.kernel_parameters)
        .pull(description.pull);
    for (key, value) in &description.env {
        builder = builder.env(key, value);
    }
    if let Some(size) = description.disk_size {
        builder = builder.disk_size(size);
    }
    if let Some(base) = &machine.ready.base {
        builder = builder.base_file(base.clone());
    }
    if let Some(overlay) = &machine.ready.overlay {
        builder = builder.overlay(overlay);
    }
    for (disk, ..) in &machine.ready.disks {
        builder = builder.disk(disk.clone());
    }
    match &machine.ready.kernel {
        Some(kernel) => builder.kernel(kernel),
        None => builder,
    }
}

/// Runs the scripts that are due, and remembers each that did what it should.
fn provision(
    held: &mut HeldRecord,
    machine: &MachinePlan,
    sandbox: &Sandbox,
    options: &ProjectOptions,
) -> Result<(), ProjectError> {
    let info = sandbox.info().map_err(failed(machine))?;
    let run = LiveVm::from(&info).started;
    let record = remembered(held, machine);
    let due = due_scripts(&machine.ready, Some(&*record), run);
    if due.is_empty() {
        return Ok(());
    }
    if record.run != run {
        record.run = run;
        record.run_done.clear();
    }
    for script in due.into_iter().filter_map(|index| machine.ready.scripts.get(index)) {
        let (name, title) = (&machine.name, &script.title);
        options.tell(&ProjectEvent::Script { machine: name.clone(), script: title.clone() });
        let seen = |bytes: &[u8]| {
            options.tell(&ProjectEvent::Output { machine: name.clone(), bytes: bytes.to_owned() });
        };
        let GuestOutcome { status, output } =
            guest::run_script(sandbox, name, script, &options.waiter(), &seen)?;
        if !status.success() {
            let outcome = status.to_string();
            return ScriptSnafu { machine: name, script: title, outcome, output }.fail();
        }
        remembered(held, machine).has_run(&script.digest, script.runs_once());
        held.save()?;
    }
    Ok(())
}

fn wait_until_healthy(
    machine: &MachinePlan,
    sandbox: &Sandbox,
    options: &ProjectOptions,
) -> Result<(), ProjectError> {
    let Some(check) = &machine.ready.description.health else { return Ok(()) };
    let waiter = options.waiter();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let GuestOutcome { status, output } = guest::run_check(sandbox, &machine.name, check, &waiter)?;
        if status.success() {
            return Ok(());
        }
        if attempts > check.retries {
            let (machine, outcome) = (&machine.name, status.to_string());
            return UnhealthySnafu { machine, attempts, outcome, output }.fail();
        }
        if attempts == 1 {
            options.tell(&ProjectEvent::Checking { machine: machine.name.clone() });
        }
        waiter.wait(check.interval)?;
    }
}

/// Shuts a machine's VM down, if it runs; says whether it did.
pub(super) fn stop(
    home: &Home,
    machine: &str,
    vm: &str,
    grace: std::time::Duration,
    options: &ProjectOptions,
) -> Result<bool, ProjectError> {
    let Some(sandbox) = super::vm(home, vm).context(MachineSnafu { machine })? else { return Ok(false) };
    if !sandbox.info().context(MachineSnafu { machine })?.state.is_live() {
        return Ok(false);
    }
    options.tell(&ProjectEvent::Stopping { machine: machine.to_owned() });
    match sandbox.stop(grace) {
        Ok(_) => Ok(true),
        Err(Error::NotRunning { .. }) => Ok(false),
        Err(error) => Err(error).context(MachineSnafu { machine }),
    }
}
