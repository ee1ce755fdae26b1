//! A process that the agent started: its life from the start to its forgotten end.

use std::io;
use std::time::{Duration, Instant};

use vmm_protocol::{Exit, OnDisconnect, Outcome, ProcessInfo, Signal, SignalTarget};

use super::streams::Streams;
use crate::cgroup::Group;
use vmm_sys::kill::kill;

/// How long a process may take to end when it was asked to.
const KILL_DELAY: Duration = Duration::from_secs(1);

/// The signal that lets who is stopped go on.
const CONTINUE: i32 = 18;

/// A process that the agent started.
pub(super) struct Process {
    /// Its number in the system, while it runs: later the number may be somebody else's.
    pub pid: i32,
    /// What is said of it in lists.
    pub info: ProcessInfo,
    /// Our ends of its streams.
    pub streams: Streams,
    /// The connection that is attached.
    pub client: Option<u64>,
    /// What happens when that breaks.
    pub on_disconnect: OnDisconnect,
    /// When to do what to it.
    pub timer: Option<(Instant, Timer)>,
    /// Its control group, until it has ended.
    pub group: Option<Group>,
    /// It has ended, and all of its output was read.
    pub complete: bool,
    timed_out: bool,
    /// We are ending it, and all that it started.
    condemned: bool,
}

/// What is done to a process when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// It has run for as long as it may.
    TimeOut,
    /// It was asked to end and did not.
    Kill,
}

impl Process {
    /// Takes a process that was started.
    pub(super) fn new(pid: i32, info: ProcessInfo, streams: Streams, group: Option<Group>) -> Self {
        Self {
            pid,
            info,
            streams,
            client: None,
            on_disconnect: OnDisconnect::Continue,
            timer: None,
            group,
            complete: false,
            timed_out: false,
            condemned: false,
        }
    }

    /// Whether it still runs.
    pub(super) fn runs(&self) -> bool {
        self.info.exit.is_none()
    }

    /// Whether its client's end is to be its own.
    pub(super) fn ends_with_its_client(&self) -> bool {
        self.on_disconnect == OnDisconnect::Kill && self.runs()
    }

    /// What is due when its timer says so.
    pub(super) fn timer_due(&mut self) {
        match self.timer.take() {
            Some((_, Timer::TimeOut)) => {
                self.timed_out = true;
                self.end();
            }
            Some((_, Timer::Kill)) => self.kill_all(),
            None => {}
        }
    }

    /// Its client is gone.
    pub(super) fn client_gone(&mut self) {
        self.client = None;
        if self.on_disconnect == OnDisconnect::Kill && !self.condemned {
            self.end();
        }
    }

    /// Asks it to end, and sees to it that it does, with all that it started.
    fn end(&mut self) {
        if !self.runs() {
            return;
        }
        self.condemned = true;
        // A shell on a terminal ignores the request to end, but not that its terminal is gone.
        let request = if self.info.terminal { Signal::HANGUP } else { Signal::TERMINATE };
        let _ = self.signal(request, SignalTarget::Group);
        // Who is stopped hears nothing.
        let _ = kill(-self.pid, CONTINUE);
        self.timer = Some((Instant::now() + KILL_DELAY, Timer::Kill));
    }

    fn kill_all(&self) {
        match &self.group {
            Some(group) => group.kill(),
            None if self.runs() => drop(kill(-self.pid, Signal::KILL.number().into())),
            None => {}
        }
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal, target: SignalTarget) -> io::Result<()> {
        let number = i32::from(signal.number());
        match (target, &self.group) {
            (SignalTarget::Process, _) => kill(self.pid, number),
            (SignalTarget::All, Some(group)) => {
                if signal == Signal::KILL {
                    group.kill();
                } else {
                    group.signal(number);
                }
                Ok(())
            }
            (SignalTarget::Group | SignalTarget::All, _) => kill(-self.pid, number),
        }
    }

    /// It has ended. What is left of its output is still to be read.
    pub(super) fn ended(&mut self, outcome: Outcome) {
        if self.condemned {
            // It may have left others behind, who were not in its process group or did not heed.
            self.kill_all();
        }
        self.timer = None;
        self.info.exit = Some(Exit { outcome, timed_out: self.timed_out });
        self.streams.process_ended(self.info.terminal);
    }
}
