//! Giving up a start, or any other wait, from another thread or a signal's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys::{Event, Interest, Poller};

/// Cancels what it was given to. Clones cancel the same.
///
/// ```
/// let token = vmm::CancelToken::new()?;
/// let in_a_signal_thread = token.clone();
/// in_a_signal_thread.cancel();
/// assert!(token.is_cancelled());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct CancelToken(Arc<State>);

struct State {
    cancelled: AtomicBool,
    event: Event,
}

impl CancelToken {
    /// Makes one that has not been cancelled.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(State { cancelled: AtomicBool::new(false), event: Event::new()? })))
    }

    /// Cancels, for good.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        // A counter that cannot be raised is raised already; the flag says the same.
        let _ = self.0.event.notify();
    }

    /// Waits for so long, or until it is cancelled. Says whether it is.
    pub fn wait_for(&self, span: Duration) -> std::io::Result<bool> {
        let mut poller = Poller::new()?;
        poller.add(self, 0, Interest::READ)?;
        drop(poller.wait(Some(span))?);
        Ok(self.is_cancelled())
    }

    /// Waits until it is cancelled.
    pub fn wait(&self) {
        let mut waited = [PollFd::new(self, PollFlags::IN)];
        // What fails but for a signal can only be tried again.
        while !self.is_cancelled() {
            let _ = poll(&mut waited, None);
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }
}

impl AsFd for CancelToken {
    /// Readable once it was cancelled.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}
