//! The thread that serves the queues, the listening socket and every connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys::{Event, Interest, Ready};

use super::state::{State, Token};
use crate::threads::{self, Role};

/// The running thread. It holds the state's lock.
pub(super) struct Worker {
    stop: Event,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread, which begins with what is available already.
    pub(super) fn start(state: Arc<Mutex<State>>) -> io::Result<Self> {
        let stop = Event::new()?;
        let its_stop = stop.try_clone()?;
        let run = move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = serve(&mut state, &its_stop) {
                tracing::error!(%error, "the vsock thread cannot wait for events");
                state.break_down();
            }
        };
        let thread = threads::spawn(Role::Sockets, "vsock", run)?;
        Ok(Self { stop, thread })
    }

    /// Stops the thread, and returns when it is gone. It takes up first what the guest kicked for before.
    pub(super) fn stop(self) {
        if let Err(error) = self.stop.notify() {
            tracing::error!(%error, "cannot wake the vsock thread to stop it");
        }
        if self.thread.join().is_err() {
            tracing::error!("the vsock thread panicked");
        }
    }
}

fn serve(state: &mut State, stop: &Event) -> io::Result<()> {
    state.poller.add(stop, Token::Stop.into(), Interest::READ)?;
    let mut events: Vec<Ready> = Vec::new();
    let mut is_busy = true;
    let mut is_stopping = false;
    while !is_stopping {
        let timeout = if is_busy { Some(Duration::ZERO) } else { state.idle_time() };
        events.clear();
        events.extend(state.poller.wait(timeout)?);
        for &ready in &events {
            match Token::from(ready.token) {
                Token::Stop => is_stopping = true,
                Token::Queue(index) => state.kicked(index, ready),
                Token::Listener => state.accept(),
                Token::Client(number) => state.client_ready(number),
                Token::Session(index) => state.session_ready(index, ready),
            }
        }
        is_busy = work(state);
    }
    state.tell_all();
    state.poller.delete(stop)
}

/// One round of work, which is bounded; says whether there is more to do.
fn work(state: &mut State) -> bool {
    state.take_from_guest();
    let has_more = state.give_to_guest();
    state.give_event();
    state.settle();
    state.notify();
    has_more || state.can_take_from_guest()
}
