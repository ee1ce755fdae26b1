//! Signals as something to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that no longer interrupt, but make a descriptor readable.
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Takes over `SIGTERM`, `SIGINT`, `SIGQUIT` and `SIGHUP`. To be called while the process has one thread: the
    /// threads that it starts inherit that these signals are blocked. Programs that it starts do not.
    pub fn of_termination() -> io::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP]);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self { descriptor: SignalFd::with_flags(&signals, flags)? })
    }

    /// Takes the next signal that came: whether it asks to end (all but `SIGHUP`, which says that a terminal is
    /// gone). `None`: no more came.
    pub fn next(&mut self) -> io::Result<Option<Termination>> {
        let Some(signal) = self.descriptor.read_signal()? else { return Ok(None) };
        let hangup = signal.ssi_signo == Signal::SIGHUP as u32;
        Ok(Some(if hangup { Termination::Hangup } else { Termination::Terminate }))
    }
}

/// What a signal of [`Signals::of_termination`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// The terminal is gone.
    Hangup,
    /// Somebody wants the process to end.
    Terminate,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
