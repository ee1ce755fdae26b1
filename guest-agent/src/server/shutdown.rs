//! How the guest goes down: everybody is asked to end, then made to, and then the machine is switched off.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as SystemSignal;
use vmm_protocol::{ShutdownMode, Signal, SignalTarget};
use vmm_sys::kill::kill;

use super::{End, Place, Server};
use crate::image_init;

/// How long processes may take to end when a program in the guest asks for the shutdown.
const OWN_GRACE: Duration = Duration::from_secs(10);

/// How long the kernel may take to end those who were killed: one that waits for a device may not end at all.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Everybody but ourselves and process 1.
const EVERYBODY: i32 = -1;

/// A shutdown that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShuttingDown {
    mode: ShutdownMode,
    phase: Phase,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Processes were asked to end, or the image's init to shut down.
    Asked,
    /// They were killed.
    Killed,
}

impl ShuttingDown {
    /// When the next step is due.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Server {
    /// Begins to shut down. A second request changes nothing.
    pub(super) fn shut_down(&mut self, mode: ShutdownMode, grace: Duration) {
        if self.shutting_down.is_some() {
            return;
        }
        // Those who are to end may wait to write.
        if let Some(freezing) = &self.freezing {
            freezing.thaw();
        }
        // No grace is for ever.
        let deadline = Instant::now() + grace.min(Duration::from_secs(24 * 60 * 60));
        self.shutting_down = Some(ShuttingDown { mode, phase: Phase::Asked, deadline });
        if self.place == Place::BesideInit && image_init::ask(mode, &mut self.launcher) {
            return;
        }
        let _ = kill(EVERYBODY, i32::from(Signal::TERMINATE.number()));
        // A shell on a terminal ignores the request to end, but not that its terminal is gone.
        for process in self.processes.values().filter(|process| process.info.terminal && process.runs()) {
            let _ = process.signal(Signal::HANGUP, SignalTarget::Group);
        }
        // Who is stopped hears nothing.
        let _ = kill(EVERYBODY, SystemSignal::SIGCONT as i32);
        self.reap();
    }

    /// The time of a step is up.
    pub(super) fn shutdown_due(&mut self, now: Instant) {
        let Some(shutting_down) = self.shutting_down.as_mut().filter(|shutdown| shutdown.deadline <= now)
        else {
            return;
        };
        match shutting_down.phase {
            Phase::Asked => {
                shutting_down.phase = Phase::Killed;
                shutting_down.deadline = now + KILL_TIMEOUT;
                let _ = kill(EVERYBODY, i32::from(Signal::KILL.number()));
                self.reap();
            }
            Phase::Killed => self.end = Some(End::ShutDown(shutting_down.mode)),
        }
    }

    /// As process 1 we are the parent of whoever has lost theirs: no children means no processes.
    pub(super) fn everybody_is_gone(&mut self) {
        if let (Place::Init, Some(shutting_down)) = (self.place, self.shutting_down) {
            self.end = Some(End::ShutDown(shutting_down.mode));
        }
    }

    /// A program in the guest asks us as it would any process 1: `poweroff`, `reboot` and `halt` of busybox, the
    /// kernel for Ctrl-Alt-Del and a failing power supply.
    pub(super) fn asked_by_signal(&mut self, signal: SystemSignal) {
        match (self.place, signal) {
            (Place::Init, SystemSignal::SIGUSR1 | SystemSignal::SIGUSR2 | SystemSignal::SIGPWR) => {
                self.shut_down(ShutdownMode::PowerOff, OWN_GRACE);
            }
            (Place::Init, SystemSignal::SIGTERM | SystemSignal::SIGINT) => {
                self.shut_down(ShutdownMode::Reboot, OWN_GRACE);
            }
            (Place::Alone, SystemSignal::SIGTERM | SystemSignal::SIGINT) => {
                for process in self.processes.values().filter(|process| process.runs()) {
                    let _ = process.signal(Signal::KILL, SignalTarget::All);
                }
                self.workers.end();
                self.end = Some(End::Terminated);
            }
            // The image's init asks every process to end when it goes down; we are of use until it kills us.
            _ => {}
        }
    }
}
