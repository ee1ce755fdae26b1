//! A machine that runs under QEMU: its life until its end.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};
use snafu::ResultExt;
use vmm_sys::{Interest, Poller};

use super::launch::Started;
use super::plan::{Reading, Report};
use super::qmp::{Commands, Event, Message, Parser};
use super::timer_watch::TimerWatch;
use super::{ControlSnafu, SoftwareError};
use crate::engine::{EngineError, LaunchReport, MachineEnd, RunningMachine, SoftwareSnafu};
use crate::threads::{self, Role};
use crate::virtio::transport::vhost_user::{SessionEnd, VhostUserServer};

/// How long the kernel may take to clear a killed QEMU away.
const CLEARING_TIMEOUT: Duration = Duration::from_secs(10);

/// A machine that QEMU runs.
pub(super) struct SoftwareMachine {
    shared: Arc<Shared>,
    processes: Vec<u32>,
    report: LaunchReport,
    watcher: Option<JoinHandle<()>>,
}

struct Shared {
    commands: Commands,
    lifeline: UnixStream,
    stopping: AtomicBool,
}

impl Shared {
    /// Has the supervisor kill QEMU.
    fn kill(&self) -> io::Result<()> {
        match self.lifeline.shutdown(Shutdown::Write) {
            // It has ended already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}

impl SoftwareMachine {
    /// Takes over what was started, and watches it on a thread of its own.
    pub(super) fn new(
        started: Started,
        control: UnixStream,
        servers: Vec<VhostUserServer>,
        timer: TimerWatch,
        report: LaunchReport,
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> io::Result<Self> {
        let processes = vec![started.supervisor.id(), started.process];
        let shared = Arc::new(Shared {
            commands: Commands::new(control.try_clone()?),
            lifeline: started.lifeline.try_clone()?,
            stopping: AtomicBool::new(false),
        });
        control.set_nonblocking(false)?;
        let watcher = Watcher::new(started, control, servers, timer, Arc::clone(&shared))?;
        let watcher = threads::spawn(Role::Watcher, "engine", move || ended(watcher.run()))?;
        Ok(Self { shared, processes, report, watcher: Some(watcher) })
    }

    fn command(&self, name: &str, what: &'static str) -> Result<(), EngineError> {
        let result = self.shared.commands.execute(name, what).context(ControlSnafu);
        result.map(drop).context(SoftwareSnafu)
    }
}

impl RunningMachine for SoftwareMachine {
    fn pause(&mut self) -> Result<(), EngineError> {
        self.command("stop", "pause the machine")
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.command("cont", "resume the machine")
    }

    fn stop(&mut self) -> Result<(), EngineError> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.kill().map_err(|source| SoftwareError::Talk { source }).context(SoftwareSnafu)
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    fn report(&self) -> &LaunchReport {
        &self.report
    }
}

impl Drop for SoftwareMachine {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Some(watcher) = self.watcher.take()
            && watcher.thread().id() != thread::current().id()
        {
            let _ = watcher.join();
        }
    }
}

/// Watches QEMU's control connection, the supervisor and the devices until the machine has ended.
struct Watcher {
    poller: Poller,
    started: Started,
    control: UnixStream,
    parser: Parser,
    servers: Vec<VhostUserServer>,
    timer: TimerWatch,
    shared: Arc<Shared>,
    told: Told,
}

/// What was heard of the machine's end before it ended.
#[derive(Default)]
struct Told {
    panicked: bool,
    shutdown: Option<String>,
    failure: Option<String>,
}

const CONTROL: u64 = 0;
const SUPERVISOR: u64 = 1;
const FIRST_SERVER: u64 = 2;

impl Watcher {
    fn new(
        started: Started,
        control: UnixStream,
        servers: Vec<VhostUserServer>,
        timer: TimerWatch,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&control, CONTROL, Interest::READ)?;
        poller.add(&started.lifeline, SUPERVISOR, Interest::READ)?;
        for (token, server) in (FIRST_SERVER..).zip(&servers) {
            poller.add(server.ended(), token, Interest::READ)?;
        }
        Ok(Self {
            poller,
            started,
            control,
            parser: Parser::default(),
            servers,
            timer,
            shared,
            told: Told::default(),
        })
    }

    /// Returns when everything of the machine is gone.
    fn run(mut self) -> MachineEnd {
        let report = loop {
            match self.wait() {
                Ok(None) => {}
                Ok(Some(report)) => break report,
                Err(error) => {
                    self.told.failure.get_or_insert_with(|| format!("cannot watch QEMU: {error}"));
                    break None;
                }
            }
        };
        if report.is_none() {
            self.kill_without_supervisor();
        }
        // The last events may have come after the last look.
        self.hear_out_control();
        let _ = self.shared.kill();
        let _ = self.started.supervisor.wait();
        self.shared.commands.close();
        for server in &mut self.servers {
            server.stop();
        }
        let stopping = self.shared.stopping.load(Ordering::SeqCst);
        end(stopping, &self.told, report.as_ref())
    }

    /// Waits for what happens next. The outer `Some`: QEMU has ended; the inner `None`: nobody says how.
    fn wait(&mut self) -> io::Result<Option<Option<Report>>> {
        let ready: Vec<u64> = self.poller.wait(self.timer.timeout())?.map(|ready| ready.token).collect();
        for token in ready {
            match token {
                CONTROL => self.hear_control()?,
                SUPERVISOR => match self.started.reports.read(&self.started.lifeline)? {
                    Reading::Report(report @ Report::Ended { .. }, _) => return Ok(Some(Some(report))),
                    Reading::Report(..) | Reading::Nothing => {}
                    Reading::End => return Ok(Some(None)),
                },
                server => self.hear_server(server)?,
            }
        }
        self.timer.turn(&self.shared.commands);
        Ok(None)
    }

    fn hear_control(&mut self) -> io::Result<()> {
        let mut bytes = [0u8; 4096];
        let count = match self.control.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error),
        };
        if count == 0 {
            // QEMU is ending; how, the supervisor will say.
            return self.poller.delete(&self.control);
        }
        match self.parser.push(&bytes[..count]) {
            Ok(messages) => {
                for message in messages {
                    self.take(message);
                }
                Ok(())
            }
            Err(error) => {
                self.fail(error.to_string());
                self.poller.delete(&self.control)
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Greeting => {
                if let Err(error) = self.shared.commands.greeted() {
                    tracing::debug!(%error, "QEMU went away after its greeting");
                }
            }
            Message::Event(Event::Shutdown { reason }) => self.told.shutdown = Some(reason),
            Message::Event(Event::Panicked) => self.told.panicked = true,
            Message::Event(Event::Other(name)) => tracing::trace!(name, "QEMU's event"),
            Message::Answer { id, value } => self.shared.commands.answered(id, Ok(value)),
            Message::Failure { id, reason } => self.shared.commands.answered(id, Err(reason)),
        }
    }

    fn hear_server(&mut self, token: u64) -> io::Result<()> {
        let index = usize::try_from(token - FIRST_SERVER).map_err(io::Error::other)?;
        let Some(server) = self.servers.get(index) else { return Ok(()) };
        self.poller.delete(server.ended())?;
        // A connection that QEMU closed is part of QEMU's end.
        if let Some(end @ SessionEnd::Failed(_)) = server.end() {
            let failure = format!("a device of the machine failed: {end}");
            self.fail(failure);
        }
        Ok(())
    }

    /// The machine cannot go on.
    fn fail(&mut self, reason: String) {
        tracing::error!(reason, "the machine is killed");
        self.told.failure.get_or_insert(reason);
        let _ = self.shared.kill();
    }

    /// What QEMU said on its control connection before it ended.
    fn hear_out_control(&mut self) {
        if self.control.set_nonblocking(true).is_err() {
            return;
        }
        let mut bytes = [0u8; 4096];
        // A hostile QEMU is dead by now, so this ends.
        while let Ok(count) = self.control.read(&mut bytes) {
            let Ok(messages) = self.parser.push(&bytes[..count]) else { return };
            for message in messages {
                self.take(message);
            }
            if count == 0 {
                return;
            }
        }
    }

    /// The supervisor is gone without a word. The kernel kills QEMU then; this makes sure, and waits.
    fn kill_without_supervisor(&mut self) {
        self.told.failure.get_or_insert_with(|| "QEMU's supervisor was killed".to_owned());
        let _ = self.started.supervisor.kill();
        let Some(handle) = &self.started.handle else { return };
        let _ = pidfd_send_signal(handle, Signal::KILL);
        if !wait_for_end(handle) {
            tracing::error!(process = self.started.process, "QEMU does not end though it was killed");
        }
    }
}

fn wait_for_end(handle: &OwnedFd) -> bool {
    let timeout = rustix::event::Timespec::try_from(CLEARING_TIMEOUT).ok();
    poll(&mut [PollFd::new(handle, PollFlags::IN)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// How the machine ended, from all that was heard.
fn end(stopping: bool, told: &Told, report: Option<&Report>) -> MachineEnd {
    if stopping {
        return MachineEnd::Stopped;
    }
    if let Some(failure) = &told.failure {
        return MachineEnd::Failed(failure.clone());
    }
    let Some(Report::Ended { status, signal, errors }) = report else {
        return MachineEnd::Failed("QEMU ended, and nobody says how".to_owned());
    };
    let errors = errors.trim();
    let said = if errors.is_empty() { String::new() } else { format!(": {errors}") };
    match (status, signal) {
        (_, Some(signal)) => MachineEnd::Failed(format!("QEMU was killed by signal {signal}{said}")),
        (Some(0), None) => match told.shutdown.as_deref() {
            Some("guest-shutdown") => MachineEnd::PowerOff,
            Some("guest-panic") => MachineEnd::Panicked,
            Some("guest-reset") if told.panicked => MachineEnd::Panicked,
            Some("guest-reset") => MachineEnd::Reset,
            Some(reason) => MachineEnd::Failed(format!("QEMU ended: {reason}{said}")),
            None => MachineEnd::Failed(format!("QEMU ended without saying why{said}")),
        },
        (Some(status), None) => MachineEnd::Failed(format!("QEMU ended with status {status}{said}")),
        (None, None) => MachineEnd::Failed(format!("QEMU ended{said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<i32>, signal: Option<i32>, errors: &str) -> Report {
        Report::Ended { status, signal, errors: errors.to_owned() }
    }

    fn told(shutdown: Option<&str>) -> Told {
        Told { shutdown: shutdown.map(str::to_owned), ..Told::default() }
    }

    #[test]
    fn power_off_reset_and_panic_are_told_apart() {
        let report = ended(Some(0), None, "");
        assert_eq!(end(false, &told(Some("guest-shutdown")), Some(&report)), MachineEnd::PowerOff);
        assert_eq!(end(false, &told(Some("guest-reset")), Some(&report)), MachineEnd::Reset);
        let panicked = Told { panicked: true, ..told(Some("guest-reset")) };
        assert_eq!(end(false, &panicked, Some(&report)), MachineEnd::Panicked);
    }

    #[test]
    fn a_qemu_that_dies_is_a_failure_with_its_last_words() {
        let report = ended(None, Some(9), "");
        let expected = MachineEnd::Failed("QEMU was killed by signal 9".to_owned());
        assert_eq!(end(false, &told(None), Some(&report)), expected);
        let report = ended(Some(1), None, "qemu: no memory\n");
        let expected = MachineEnd::Failed("QEMU ended with status 1: qemu: no memory".to_owned());
        assert_eq!(end(false, &told(None), Some(&report)), expected);
        assert!(matches!(end(false, &told(None), None), MachineEnd::Failed(_)));
    }

    #[test]
    fn a_machine_that_we_stop_did_not_fail() {
        let report = ended(None, Some(9), "");
        assert_eq!(end(true, &told(None), Some(&report)), MachineEnd::Stopped);
    }
}
