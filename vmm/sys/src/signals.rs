//! Signals as something to wait for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::Event;

/// Raised by the handler. It is never closed: a signal may come at any time.
static RAISED: OnceLock<Event> = OnceLock::new();

/// Somebody wants the process to end.
static TERMINATE: AtomicBool = AtomicBool::new(false);

/// The terminal is gone.
static HANGUP: AtomicBool = AtomicBool::new(false);

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// The terminal is gone.
    Hangup,
    /// Somebody wants the process to end.
    Terminate,
}

/// Signals that no longer end the process, but make a descriptor readable.
#[derive(Debug)]
pub struct Signals {
    raised: &'static Event,
}

impl Signals {
    /// Takes over `SIGTERM`, `SIGINT`, `SIGQUIT` and `SIGHUP` for the whole process. Programs that it starts have
    /// them as ever.
    pub fn of_termination() -> io::Result<Self> {
        let event = Event::new()?;
        let raised = RAISED.get_or_init(|| event);
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
            install(signal, &action)?;
        }
        Ok(Self { raised })
    }

    /// Takes what came since the last call.
    pub fn take(&self) -> io::Result<Vec<Termination>> {
        self.raised.clear()?;
        let hangup = HANGUP.swap(false, Ordering::Relaxed).then_some(Termination::Hangup);
        let terminate = TERMINATE.swap(false, Ordering::Relaxed).then_some(Termination::Terminate);
        Ok(hangup.into_iter().chain(terminate).collect())
    }
}

#[expect(unsafe_code, reason = "a signal's handler may run between any two instructions")]
fn install(signal: Signal, action: &SigAction) -> io::Result<()> {
    // SAFETY: the handler calls only what is async-signal-safe (signal-safety(7)): it stores to lock-free atomics,
    // reads a cell that was filled before the handler was installed, and writes to an open descriptor.
    unsafe { sigaction(signal, action)? };
    Ok(())
}

#[expect(unsafe_code, reason = "the handler must leave the error number as it finds it")]
extern "C" fn note(signal: i32) {
    let flag = if signal == Signal::SIGHUP as i32 { &HANGUP } else { &TERMINATE };
    flag.store(true, Ordering::Relaxed);
    let Some(raised) = RAISED.get() else { return };
    let one = 1u64.to_ne_bytes();
    // SAFETY: the location of this thread's error number is valid while the thread lives. The descriptor is open, for
    // it is never closed, and eight readable bytes are given. A counter that is full is raised already.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(raised.as_raw_fd(), one.as_ptr().cast(), one.len());
        *libc::__errno_location() = errno;
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raised.as_fd()
    }
}
