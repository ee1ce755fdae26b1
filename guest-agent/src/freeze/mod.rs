//! Holding the guest's file systems still for a moment, while the host takes their disks as they are.
//!
//! Whoever writes to a frozen file system waits, and that could be the agent itself. So two threads of their own do it,
//! and none of them writes anything: one freezes; the other thaws, when that is asked for or the time is up, whatever
//! becomes of the first and of the agent's own thread.

mod file_systems;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_protocol::ErrorKind;
use vmm_sys::Event;

use crate::refusal::Refusal;

pub(crate) use file_systems::mounted;

/// No guest stands still for longer, whatever becomes of the host.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Something that can be held still.
pub(crate) trait FileSystem: Send {
    /// What to call it.
    fn name(&self) -> &str;

    /// Whether nothing is consistent that it is left out of.
    fn is_needed(&self) -> bool;

    /// Writes back what it has: the longest part, during which it goes on.
    fn sync(&self) -> io::Result<()>;

    /// Holds it still.
    fn freeze(&self) -> io::Result<()>;

    /// Lets it go on.
    fn thaw(&self) -> io::Result<()>;
}

/// What becomes of a freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// All stand still.
    Frozen,
    /// They do not, and nothing more comes.
    Refused(Refusal),
    /// All go on, and nothing more comes.
    Thawed {
        /// How long the first of them stood still.
        frozen: Duration,
        /// The time was up.
        expired: bool,
    },
}

/// File systems that stand still, or are about to. Dropping it thaws them.
pub(crate) struct Freeze {
    shared: Arc<Shared>,
}

struct Shared {
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
    event: Event,
}

#[derive(Default)]
struct State {
    /// When the first was to stand still.
    began: Option<Instant>,
    /// All do.
    complete: bool,
    /// They are to go on.
    over: bool,
    frozen: Vec<Box<dyn FileSystem>>,
    news: Vec<News>,
}

impl Freeze {
    /// Begins to freeze the file systems, the last first: it may lie in a file of an earlier one.
    pub(crate) fn begin(file_systems: Vec<Box<dyn FileSystem>>, limit: Duration) -> io::Result<Self> {
        let event = Event::new()?;
        let shared = Shared { limit, state: Mutex::default(), changed: Condvar::new(), event };
        let freeze = Self { shared: Arc::new(shared) };
        let (freezer, keeper) = (Arc::clone(&freeze.shared), Arc::clone(&freeze.shared));
        // First the one that thaws: if the other cannot be started, nothing is frozen.
        thread::Builder::new().name("thaw".to_owned()).spawn(move || keeper.keep())?;
        thread::Builder::new().name("freeze".to_owned()).spawn(move || freezer.freeze_all(file_systems))?;
        Ok(freeze)
    }

    /// Ready to be read when there is news.
    pub(crate) fn event(&self) -> &Event {
        &self.shared.event
    }

    /// What happened since it was last asked for.
    pub(crate) fn news(&self) -> Vec<News> {
        let _ = self.shared.event.clear();
        std::mem::take(&mut self.shared.lock().news)
    }

    /// Lets everything go on, soon.
    pub(crate) fn thaw(&self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.thaw();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, news: News) {
        state.news.push(news);
        let _ = self.event.notify();
    }

    fn freeze_all(&self, file_systems: Vec<Box<dyn FileSystem>>) {
        for file_system in &file_systems {
            // What cannot be written back says so when it is frozen.
            let _ = file_system.sync();
        }
        {
            let mut state = self.lock();
            state.began = Some(Instant::now());
            self.changed.notify_all();
        }
        for file_system in file_systems.into_iter().rev() {
            if self.lock().over {
                return;
            }
            let outcome = file_system.freeze();
            let mut state = self.lock();
            match outcome {
                Ok(()) if state.over => {
                    // Whoever thaws the others has been here.
                    let _ = file_system.thaw();
                    return;
                }
                Ok(()) => state.frozen.push(file_system),
                // Such a one was written back, which is all that it can.
                Err(error) if is_unsupported(&error) && !file_system.is_needed() => {}
                Err(error) => {
                    let refusal = refusal(file_system.name(), &error);
                    state.over = true;
                    self.tell(&mut state, News::Refused(refusal));
                    self.changed.notify_all();
                    return;
                }
            }
        }
        let mut state = self.lock();
        if !state.over {
            state.complete = true;
            self.tell(&mut state, News::Frozen);
        }
    }

    /// Waits for the end of it, and thaws.
    fn keep(&self) {
        let mut state = self.lock();
        let mut expired = false;
        while !state.over {
            let now = Instant::now();
            state = match state.began.map(|began| (began + self.limit).saturating_duration_since(now)) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    expired = true;
                    state.over = true;
                    state
                }
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        while let Some(file_system) = state.frozen.pop() {
            // One that fails has been thawed by somebody else in the guest.
            let _ = file_system.thaw();
        }
        let frozen = state.began.map(|began| began.elapsed()).unwrap_or_default();
        if state.complete {
            self.tell(&mut state, News::Thawed { frozen, expired });
        } else if !state.news.iter().any(|news| matches!(news, News::Refused(_))) {
            let message = format!("the guest's file systems did not stand still within {:?}", self.limit);
            self.tell(&mut state, News::Refused(Refusal::new(ErrorKind::Internal, message)));
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

fn refusal(name: &str, error: &io::Error) -> Refusal {
    if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) {
        let message = format!("the file system at {name} is frozen already, by a program in the guest");
        return Refusal::new(ErrorKind::Busy, message);
    }
    Refusal::system(ErrorKind::Internal, format!("freeze the file system at {name}"), error)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
