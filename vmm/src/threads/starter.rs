//! The thread that starts threads.

use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use super::{Role, system};

type Order = Box<dyn FnOnce() + Send>;

/// The way to the thread. It lives as long as the process.
pub(super) struct Starter {
    orders: mpsc::Sender<Order>,
}

impl Starter {
    /// Starts it; it is held to its own role when this returns.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, ordered) = mpsc::channel::<Order>();
        let serve = move || {
            while let Ok(order) = ordered.recv() {
                order();
            }
        };
        // Nobody waits for its end.
        drop(spawn_held(Role::Starter, Builder::new().name("starter".to_owned()), serve)?);
        Ok(Self { orders })
    }

    /// Has it start a thread.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        role: Role,
        thread: Builder,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let (started, is_started) = mpsc::sync_channel(1);
        let order = move || {
            // Whoever ordered it waits until it has heard.
            let _ = started.send(spawn_held(role, thread, work));
        };
        let gone = || io::Error::other("the thread that starts threads is gone");
        self.orders.send(Box::new(order)).map_err(|_| gone())?;
        is_started.recv().map_err(|_| gone())?
    }
}

/// Starts a thread from this one. It is held to its role when this returns, or there is none.
fn spawn_held<T: Send + 'static>(
    role: Role,
    thread: Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (held, is_held) = mpsc::sync_channel(1);
    let run = move || {
        let outcome = system::hold_to(role);
        let failed = outcome.is_err();
        // Whoever starts it waits until it has heard.
        let _ = held.send(outcome);
        if failed {
            // There is no value to return, and nobody who would take one.
            resume_unwind(Box::new(()));
        }
        work()
    };
    let thread: JoinHandle<T> = thread.spawn(run)?;
    is_held.recv().unwrap_or_else(|_| Err(io::Error::other("a thread died at its start")))?;
    Ok(thread)
}
