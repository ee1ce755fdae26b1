//! The way to one VM: its monitor at the control socket, its agent at the vsock socket. Shared by the handle and by
//! the processes that came from it.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys::process::Process;

use super::program::last_line;
use super::start::milliseconds;
use super::{CancelToken, Error};
use crate::agent::{AgentClient, AgentError, ErrorKind, KeptConnections};
use crate::control::{
    Answer, Balloon, Connection, ControlError, Event, Goal, MonitorLine, RefusalCode, Request, Status,
};
use crate::home::{End, EndReason, HomeError, StateRecord, Timestamp, VmFolder, VmState};
use crate::threads;

/// How long a monitor may take to answer what it can answer at once.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an engine may take to have a machine stand still.
const STANDSTILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Beyond a guest's grace: the monitor gives it some, the engine some, then it clears away.
const STOP_MARGIN: Duration = Duration::from_secs(25);

/// How long a VM may take to be told as ended once its agent is not to be reached any more.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// The way to one VM.
#[derive(Debug)]
pub(super) struct Link {
    folder: VmFolder,
    name: String,
    /// The connection on which the VM was started. While it is there the VM is ours: it ends with it.
    lifeline: Mutex<Option<Connection>>,
    /// The process that it is ours in: one that was forked off it has the lifeline too, and must not end it.
    owner: u32,
    /// How it ended, once that is known.
    ended: Mutex<Option<End>>,
    /// Connections to its agent for later requests.
    kept: Arc<KeptConnections>,
}

impl Link {
    pub(super) fn new(folder: VmFolder, name: String, lifeline: Option<Connection>) -> Self {
        let owner = std::process::id();
        let lifeline = Mutex::new(lifeline);
        Self { folder, name, lifeline, owner, ended: Mutex::new(None), kept: Arc::default() }
    }

    pub(super) fn folder(&self) -> &VmFolder {
        &self.folder
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn lifeline(&self) -> MutexGuard<'_, Option<Connection>> {
        self.lifeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, where that is known.
    fn known_end(&self) -> Option<End> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, end: &End) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(end.clone());
    }

    /// Connects to the monitor.
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        let sockets = self.folder.state()?.map_or_else(|| self.folder.sockets(), |record| record.sockets);
        match Connection::connect(&VmFolder::control_socket(&sockets)) {
            Ok(connection) => Ok(connection),
            Err(ControlError::NotListening) => Err(self.not_running()),
            Err(error) => Err(error.into()),
        }
    }

    fn not_running(&self) -> Error {
        Error::NotRunning { name: self.name.clone() }
    }

    fn paused(&self) -> Error {
        Error::Paused { name: self.name.clone() }
    }

    /// A client of the guest's agent.
    pub(super) fn agent(&self) -> Result<AgentClient, Error> {
        let record = self.folder.state()?;
        if record.as_ref().is_some_and(|record| record.state == VmState::Paused && record.end.is_none()) {
            return Err(self.paused());
        }
        let sockets = record.map_or_else(|| self.folder.sockets(), |record| record.sockets);
        Ok(AgentClient::new(VmFolder::vsock_socket(&sockets)).keeping(self.kept.clone()))
    }

    /// What the VM does, as its monitor says.
    pub(super) fn status(&self) -> Result<Status, Error> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        match self.connect()?.ask(Request::Status, Some(deadline), None)? {
            Answer::Status(status) => Ok(status),
            _ => Err(ControlError::Malformed.into()),
        }
    }

    /// Tells of the guest's balloon, and sets its target if one is given.
    pub(super) fn balloon(&self, target: Option<u64>) -> Result<Balloon, Error> {
        let name = || self.name.clone();
        // Asked here, for old monitors cannot say it.
        if self.folder.spec()?.is_some_and(|spec| !spec.machine.balloon) {
            return Err(Error::NoBalloon { name: name() });
        }
        let mut connection = self.connect()?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        match connection.ask(Request::Balloon { target }, Some(deadline), None) {
            Ok(Answer::Balloon(balloon)) => Ok(balloon),
            Ok(_) => Err(ControlError::Malformed.into()),
            Err(ControlError::Refused { refusal }) => Err(match refusal.code {
                RefusalCode::Invalid => Error::Invalid { message: refusal.message },
                RefusalCode::OutOfPlace => Error::NotReady { name: name() },
                _ => Error::OldMonitor { name: name() },
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Has its processors stand still, or lets them go on.
    pub(super) fn stand_still(&self, still: bool) -> Result<(), Error> {
        let name = || self.name.clone();
        let request = if still { Request::Pause } else { Request::Resume };
        let deadline = Instant::now() + STANDSTILL_TIMEOUT;
        match self.connect()?.ask(request, Some(deadline), None) {
            Ok(_) => Ok(()),
            Err(ControlError::Refused { refusal }) => Err(match refusal.code {
                RefusalCode::Invalid => Error::Invalid { message: refusal.message },
                RefusalCode::OutOfPlace if self.status()?.state == VmState::Starting => {
                    Error::NotReady { name: name() }
                }
                RefusalCode::OutOfPlace => self.not_running(),
                _ => Error::OldMonitor { name: name() },
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops the VM and returns when everything of it is gone.
    pub(super) fn stop(&self, grace: Duration) -> Result<End, Error> {
        let grace_ms = milliseconds(grace);
        let deadline = Instant::now().checked_add(grace.saturating_add(STOP_MARGIN));
        self.until_end(Request::Stop { grace_ms }, deadline, None)
    }

    /// Stops the VM at once.
    pub(super) fn kill(&self, timeout: Duration) -> Result<End, Error> {
        self.until_end(Request::Stop { grace_ms: 0 }, Some(Instant::now() + timeout), None)
    }

    /// Waits until its guest is ready.
    pub(super) fn wait_until_ready(&self, cancel: Option<&CancelToken>) -> Result<(), Error> {
        let mut connection = self.connect()?;
        let cancel = cancel.map(AsFd::as_fd);
        match connection.ask(Request::Wait { goal: Goal::Ready }, None, cancel)? {
            Answer::Ready(_) => Ok(()),
            Answer::Ended(end) => Err(Error::Ended { end: Box::new(end) }),
            _ => Err(ControlError::Malformed.into()),
        }
    }

    /// Waits for its end.
    pub(super) fn wait(&self, cancel: Option<&CancelToken>) -> Result<End, Error> {
        self.until_end(Request::Wait { goal: Goal::Ended }, None, cancel)
    }

    fn until_end(
        &self,
        request: Request,
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> Result<End, Error> {
        // Whether it is known how it ended or not, it may run again. Not on the lifeline: other threads may want to hear it
        // meanwhile.
        let mut connection = match self.connect() {
            Ok(connection) => connection,
            Err(error) => {
                let end = self.known_end().or_else(|| self.end_of_the_dead());
                return end.or_else(|| self.end_without_record(deadline)).ok_or(error);
            }
        };
        let outcome = match connection.request(request) {
            Ok(_) | Err(ControlError::Lost) => end_from(&mut connection, deadline, cancel),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(end) => {
                self.remember(&end);
                Ok(end)
            }
            Err(ControlError::Lost) => {
                let end = self.end_of_the_dead().unwrap_or_else(|| self.monitor_killed());
                self.remember(&end);
                Ok(end)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// How a VM ended whose monitor is not to be reached, where that is to be known.
    fn end_of_the_dead(&self) -> Option<End> {
        let deadline = Some(Instant::now() + END_TIMEOUT);
        let told = self.lifeline().as_mut().map(|lifeline| end_from(lifeline, deadline, None));
        let end = match told {
            Some(Ok(end)) => end,
            // It was ours and ended without a word.
            Some(Err(ControlError::Lost)) => self.end_of_last_run(),
            Some(Err(_)) | None => self.recorded_end()?,
        };
        self.remember(&end);
        Some(end)
    }

    fn monitor_killed(&self) -> End {
        monitor_killed(&self.folder, self.record())
    }

    /// The end of a VM whose monitor was killed before it could record one, and nobody has looked at it since.
    fn end_without_record(&self, deadline: Option<Instant>) -> Option<End> {
        let monitor_pid = self.record()?.monitor_pid;
        if self.folder.is_held().ok()? {
            // A process that is killed closes its sockets before it lets go of its lock.
            if let Some(monitor) = Process::open(monitor_pid).ok()? {
                monitor.wait(within(deadline, ANSWER_TIMEOUT)).ok()?;
            }
            if self.folder.is_held().ok()? {
                return None;
            }
        }
        // One that ended in order has recorded it by now.
        let end = self.end_of_last_run();
        self.remember(&end);
        Some(end)
    }

    /// The end that is recorded of its last run, which is over. Where there is none, its monitor was killed.
    fn end_of_last_run(&self) -> End {
        self.recorded_end().unwrap_or_else(|| self.monitor_killed())
    }

    /// What is recorded of its last run.
    fn record(&self) -> Option<StateRecord> {
        self.folder.state().ok().flatten()
    }

    /// The end that is recorded of its last run.
    fn recorded_end(&self) -> Option<End> {
        self.record()?.end
    }

    /// Lets go of a VM that is ours: it ends by that. Returns when everything of it is gone.
    pub(super) fn release(&self, timeout: Duration) {
        if std::process::id() != self.owner {
            return;
        }
        let Some(mut lifeline) = self.lifeline().take() else { return };
        // Its monitor takes that for our end.
        lifeline.finish();
        let _ = end_from(&mut lifeline, Instant::now().checked_add(timeout), None);
    }

    /// What an error of the agent's means: the VM may have ended, or may not be running at all.
    pub(super) fn explain(&self, error: AgentError, program: Option<&str>) -> Error {
        let program = || program.unwrap_or("the login shell").to_owned();
        match error {
            AgentError::Refusal { kind: ErrorKind::CommandNotFound, .. } => {
                Error::CommandNotFound { program: program() }
            }
            AgentError::Refusal { kind: ErrorKind::CommandNotExecutable, message, .. } => {
                Error::CommandNotExecutable { program: program(), reason: message }
            }
            source if source.is_unreachable() => self.explain_loss(source),
            source => Error::Agent { source },
        }
    }

    fn explain_loss(&self, source: AgentError) -> Error {
        // It was there a moment ago if it is ours, or if the connection to its agent broke in use.
        let was_there = self.lifeline().is_some() || matches!(source, AgentError::Lost { .. });
        match self.status().map(|status| status.state) {
            Ok(VmState::Starting) => return Error::NotReady { name: self.name.clone() },
            Ok(VmState::Paused) => return self.paused(),
            _ => {}
        }
        let deadline = Some(Instant::now() + END_TIMEOUT);
        match self.until_end(Request::Wait { goal: Goal::Ended }, deadline, None) {
            Ok(end) if was_there => Error::Ended { end: Box::new(end) },
            Ok(_) | Err(Error::Home { source: HomeError::NoSuchVm { .. } } | Error::NotRunning { .. }) => {
                self.not_running()
            }
            Err(_) => Error::Agent { source },
        }
    }
}

/// Reads until the end is told, by answer or event. A monitor that hangs up without a word is on its way out, too: it is
/// waited for, but not beyond the deadline.
pub(super) fn end_from(
    connection: &mut Connection,
    deadline: Option<Instant>,
    cancel: Option<&CancelToken>,
) -> Result<End, ControlError> {
    loop {
        match connection.next(deadline, cancel.map(AsFd::as_fd)) {
            Ok(
                MonitorLine::Answer { what: Answer::Ended(end), .. } | MonitorLine::Event(Event::Ended(end)),
            ) => {
                connection.wait_for_exit(ANSWER_TIMEOUT);
                return Ok(end);
            }
            Ok(MonitorLine::Answer { what: Answer::Refused(refusal), .. }) => {
                return Err(ControlError::Refused { refusal });
            }
            Ok(_) => {}
            Err(ControlError::Lost) => {
                connection.wait_for_exit(within(deadline, ANSWER_TIMEOUT));
                return Err(ControlError::Lost);
            }
            Err(error) => return Err(error),
        }
    }
}

/// So long, but not beyond the deadline.
fn within(deadline: Option<Instant>, most: Duration) -> Duration {
    deadline.map_or(most, |deadline| deadline.saturating_duration_since(Instant::now()).min(most))
}

/// The end of a VM whose monitor could not record it. It may have said in its log why it had to end.
pub(super) fn monitor_killed(folder: &VmFolder, record: Option<StateRecord>) -> End {
    let said = last_line(&folder.monitor_log());
    let how = record.as_ref().zip(said.as_deref());
    let how = how.and_then(|(record, said)| threads::how_it_ended(record.monitor_pid, said));
    End {
        reason: EndReason::MonitorKilled,
        message: how.map_or_else(
            || "its monitor process was killed".to_owned(),
            |how| format!("its monitor process was ended by a filter of system calls: {how}"),
        ),
        hint: None,
        console_tail: String::new(),
        at: record.map_or_else(Timestamp::now, |record| record.started),
    }
}
