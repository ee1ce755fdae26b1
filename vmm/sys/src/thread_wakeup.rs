//! Getting a thread out of a system call that may last for ever.

use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Does nothing where it arrives; its arrival alone makes a system call return `EINTR`.
const SIGNAL: Signal = Signal::SIGUSR1;

/// The calling thread's side: from its making until its drop the thread can be woken.
#[derive(Debug)]
pub struct Wakeable {
    thread: Arc<Mutex<Option<libc::pid_t>>>,
    /// It speaks of the thread that made it.
    _not_send: PhantomData<*const ()>,
}

/// Wakes a thread. Can be kept longer than the thread lives.
#[derive(Clone, Debug)]
pub struct Waker {
    thread: Arc<Mutex<Option<libc::pid_t>>>,
}

impl Wakeable {
    /// Makes the calling thread one that can be woken.
    pub fn this_thread() -> Self {
        install_handler();
        let number = rustix::thread::gettid().as_raw_nonzero().get();
        Self { thread: Arc::new(Mutex::new(Some(number))), _not_send: PhantomData }
    }

    /// What wakes it.
    pub fn waker(&self) -> Waker {
        Waker { thread: Arc::clone(&self.thread) }
    }
}

impl Drop for Wakeable {
    fn drop(&mut self) {
        // The number may be another thread's from here on.
        *lock(&self.thread) = None;
    }
}

impl Waker {
    /// Has the system call in which the thread is return `EINTR`. A thread that is in none does not notice: who wakes
    /// it has to leave word where it looks before the call, in a place that the call itself regards.
    pub fn wake(&self) -> io::Result<()> {
        let thread = lock(&self.thread);
        let Some(number) = *thread else { return Ok(()) };
        let process = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: `tgkill` takes three numbers and touches no memory of ours. The thread lives: it takes its number
        // away, under the lock that is held here, before it ends.
        #[expect(unsafe_code, reason = "a system call without a safe wrapper")]
        let result = unsafe { libc::syscall(libc::SYS_tgkill, process, number, SIGNAL as libc::c_int) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn lock(thread: &Mutex<Option<libc::pid_t>>) -> MutexGuard<'_, Option<libc::pid_t>> {
    thread.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Without SA_RESTART, so that the call is not taken up again.
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, which is async-signal-safe, and nobody else in the process uses the signal.
        #[expect(unsafe_code, reason = "a signal's handler may run between any two instructions")]
        let installed = unsafe { sigaction(SIGNAL, &action) };
        debug_assert!(installed.is_ok(), "SIGUSR1 can be handled");
    });
}

extern "C" fn ignore(_: libc::c_int) {}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_in_a_system_call_is_woken() {
        let (sender, receiver) = mpsc::channel();
        let (reader, _writer) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let wakeable = Wakeable::this_thread();
            sender.send(wakeable.waker()).unwrap();
            rustix::io::read(&reader, &mut [0u8; 1])
        });
        let waker = receiver.recv().unwrap();
        // The first may come before the call.
        while !thread.is_finished() {
            waker.wake().unwrap();
            std::thread::yield_now();
        }
        assert_eq!(thread.join().unwrap(), Err(rustix::io::Errno::INTR));
        waker.wake().unwrap();
    }
}
