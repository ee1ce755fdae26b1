//! What can be told of a VM without entering it.

use std::time::Instant;

use serde::Serialize;

use super::keeper;
use super::link::{ANSWER_TIMEOUT, monitor_killed};
use super::start::milliseconds;
use super::{Error, RootWrites};
use crate::control::{Answer, Connection, ControlError, Request, Status};
use crate::home::{
    End, EngineChoice, HealthReport, Home, HomeError, Init, RestartPolicy, StateRecord, Timestamp, Timings,
    VmFolder, VmId, VmName, VmSpec, VmState,
};
use crate::machine::{ConsoleKind, MemorySize, RunExits};

/// What is known of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VmInfo {
    /// Its id.
    pub id: VmId,
    /// Its name. One without is gone when it ends.
    pub name: Option<VmName>,
    /// Nothing of it is kept when it ends.
    pub removed_at_end: bool,
    /// How long its guest may take to shut down, where whoever stops it does not say; in milliseconds.
    pub stop_timeout_ms: u64,
    /// What it does.
    pub state: VmState,
    /// Its monitor lives, but does not answer in time.
    pub unresponsive: bool,
    /// The image, as it was asked for.
    pub image: String,
    /// The version of the image.
    pub image_version: String,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The guest may run virtual machines itself.
    pub nested: bool,
    /// What its console is.
    pub console: ConsoleKind,
    /// It has a balloon.
    pub balloon: bool,
    /// Its memory is in huge pages of the host's.
    pub huge_pages: bool,
    /// Where what its guest writes to the root goes.
    pub root_writes: RootWrites,
    /// The engine that was asked for.
    pub engine_choice: EngineChoice,
    /// The engine that runs it, or ran it last.
    pub engine: Option<String>,
    /// Whether the threads of its monitor are held to the system calls that they need; while it runs.
    pub seccomp: Option<bool>,
    /// Who is PID 1 in the guest.
    pub init: Init,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last started.
    pub started: Option<Timestamp>,
    /// How long the steps of that start took.
    pub timings: Timings,
    /// How often its processors left the guest in that run, by what for: where its engine counts that.
    pub exits: RunExits,
    /// What its health check came to, if it has one; while it runs.
    pub health: Option<HealthReport>,
    /// What follows from an end that nobody asked for.
    pub restart: RestartPolicy,
    /// How many times in a row it was started again by that.
    pub restarts: u32,
    /// The monitor's process, while there is one.
    pub monitor_pid: Option<u32>,
    /// The other processes of the machine, while it runs.
    pub processes: Vec<u32>,
    /// How it ended last.
    pub end: Option<End>,
}

/// A look at a VM that is under way: its monitor was asked.
pub(super) struct Look {
    folder: VmFolder,
    spec: VmSpec,
    record: Option<StateRecord>,
    asked: Result<(Connection, u64), ControlError>,
}

/// What every VM of a home does. All monitors are asked before any is waited for, so that those that hang cost the
/// time of one.
pub(super) fn look_at_all(home: &Home) -> Result<Vec<VmInfo>, Error> {
    let mut looks = Vec::new();
    for folder in home.folders()? {
        match look(&folder) {
            // Gone since we looked into the folder.
            Ok(None) => {}
            Ok(Some(look)) => looks.push(look),
            Err(error) => {
                let hint = error.hint().unwrap_or_default();
                tracing::error!(id = %folder.id(), hint, "a VM cannot be read: {error}");
            }
        }
    }
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let infos = looks.into_iter().map(|look| look.finish(deadline));
    infos.filter_map(Result::transpose).collect()
}

/// What one VM does. `None`: it is gone.
pub(super) fn look_at(folder: &VmFolder) -> Result<Option<VmInfo>, Error> {
    match look(folder)? {
        Some(look) => look.finish(Instant::now() + ANSWER_TIMEOUT),
        None => Ok(None),
    }
}

fn look(folder: &VmFolder) -> Result<Option<Look>, Error> {
    let Some(spec) = folder.spec()? else { return Ok(None) };
    let record = folder.state()?;
    let sockets = record.as_ref().map_or_else(|| folder.sockets(), |record| record.sockets.clone());
    let asked = Connection::connect(&VmFolder::control_socket(&sockets));
    let asked = asked.and_then(|mut connection| {
        let id = connection.request(Request::Status)?;
        Ok((connection, id))
    });
    Ok(Some(Look { folder: folder.clone(), spec, record, asked }))
}

impl Look {
    fn finish(self, deadline: Instant) -> Result<Option<VmInfo>, Error> {
        let Self { folder, spec, record, asked } = self;
        let answer = asked.and_then(|(mut connection, id)| connection.answer(id, Some(deadline), None));
        let status = match answer {
            Ok(Answer::Status(status)) => Ok(status),
            Ok(_) => Err(ControlError::Malformed),
            Err(error) => Err(error),
        };
        // Asked last: a monitor that ended while we asked has let go of its lock.
        let held = match &status {
            Ok(_) => true,
            Err(_) => match folder.is_held() {
                Ok(held) => held,
                Err(HomeError::NoSuchVm { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        // And what it recorded at its end came after our first look.
        let record = if held { record } else { folder.state()? };
        Ok(Some(describe(&folder, spec, record, held, status)))
    }
}

/// Puts together what is known. What lives counts more than what was recorded.
fn describe(
    folder: &VmFolder,
    spec: VmSpec,
    record: Option<StateRecord>,
    held: bool,
    status: Result<Status, ControlError>,
) -> VmInfo {
    let keeper = keeper::look(folder, &spec);
    let ended = record.as_ref().and_then(|record| record.end.clone());
    let (state, end) = match (&status, held, &record) {
        (Ok(status), ..) => (status.state, None),
        // Its monitor has not come so far yet, or is clearing away.
        (Err(_), true, None) => (VmState::Starting, None),
        (Err(_), false, None) => (VmState::Created, None),
        // Whoever holds it then looks at it, or is about to start it.
        (Err(error), _, Some(record)) => match ended {
            Some(end) if end.reason.is_crash() => (VmState::Crashed, Some(end)),
            Some(end) => (VmState::Stopped, Some(end)),
            // A monitor listens until it has recorded the end: that run is dead, and whoever has the VM begins another.
            None if held && matches!(error, ControlError::NotListening) => (VmState::Starting, None),
            None if held => (record.state, None),
            None => (VmState::Crashed, Some(monitor_killed(folder, Some(record.clone())))),
        },
    };
    // A keeper that does not want it again is gone in a moment; how often it did so already it knows best.
    let again = keeper.is_some() && end.as_ref().is_some_and(|end| spec.restart.wants(end, 0));
    let state = if again { VmState::Restarting } else { state };
    let unresponsive = held && matches!(&status, Err(error) if !matches!(error, ControlError::NotListening));
    let live = held.then_some(record.as_ref()).flatten().filter(|record| record.end.is_none());
    let (monitor_pid, processes) = match &status {
        Ok(status) => (Some(status.monitor_pid), status.processes.clone()),
        Err(_) => (live.map(|record| record.monitor_pid), Vec::new()),
    };
    let status = status.ok();
    VmInfo {
        removed_at_end: spec.ephemeral(),
        stop_timeout_ms: milliseconds(spec.stop_grace()),
        id: spec.id,
        name: spec.name,
        state,
        unresponsive,
        image: spec.image,
        image_version: spec.image_version,
        cpus: spec.machine.cpus,
        memory: spec.machine.memory,
        nested: spec.machine.nested,
        console: spec.machine.console,
        balloon: spec.machine.balloon,
        huge_pages: spec.machine.huge_pages,
        root_writes: RootWrites::of(&spec.configuration.root),
        engine_choice: spec.engine,
        engine: match &status {
            Some(status) => status.engine.clone(),
            None => record.as_ref().and_then(|record| record.engine.clone()),
        },
        seccomp: status.as_ref().map(|status| status.seccomp),
        init: spec.configuration.init.into(),
        created: spec.created,
        started: match &status {
            Some(status) => Some(status.started),
            None => record.as_ref().map(|record| record.started),
        },
        timings: match &status {
            Some(status) => status.timings.clone(),
            None => record.as_ref().map(|record| record.timings.clone()).unwrap_or_default(),
        },
        health: status.as_ref().and_then(|status| status.health.clone()),
        restart: spec.restart,
        restarts: keeper.map_or(0, |keeper| keeper.restarts),
        exits: match status {
            Some(status) => status.exits,
            None => record.map(|record| record.exits).unwrap_or_default(),
        },
        monitor_pid,
        processes,
        end,
    }
}
