//! The thread that serves one queue of a device which answers each chain at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys::{Event, Interest, Poller};

use super::log_limit::LogLimit;
use super::{Chain, QueueError, QueueState, Virtqueue};
use crate::memory::Regions;

static BROKEN: LogLimit = LogLimit::new();

const STOP: u64 = 0;
const KICK: u64 = 1;

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is answered; so many bytes were written to it, from its beginning.
    Done(u32),
    /// It was not touched and is to be offered again after this time. Nothing else is taken meanwhile.
    Later(Duration),
}

/// What a device does with the chains of one queue.
pub trait QueueHandler: Send + 'static {
    /// Answers one chain.
    fn serve(&mut self, chain: &Chain, memory: &Regions) -> Served;
}

/// A thread that serves one queue until it is stopped. Dropping it stops it.
pub struct QueueWorker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<QueueState>>,
}

struct Stop {
    asked: AtomicBool,
    event: Event,
}

impl QueueWorker {
    /// Starts the thread, which begins with what is available already. The name is the thread's: of 15 bytes at most,
    /// or the kernel cuts it.
    pub fn start(name: String, queue: Virtqueue, handler: impl QueueHandler) -> io::Result<Self> {
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), event: Event::new()? });
        let poller = Poller::new()?;
        poller.add(&stop.event, STOP, Interest::READ)?;
        poller.add(queue.kick(), KICK, Interest::READ)?;
        let its_stop = Arc::clone(&stop);
        let run = move || {
            Loop { queue, handler, stop: its_stop, poller, kicks: Kicks::Awaited, chain: Chain::new() }.run()
        };
        let thread = thread::Builder::new().name(name).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the thread once the chain in its hands is answered, and says where the queue goes on.
    ///
    /// `None`: the thread is gone with its queue's state, which only a panic in it can cause.
    pub fn stop(mut self) -> Option<QueueState> {
        self.end()
    }

    fn end(&mut self) -> Option<QueueState> {
        let thread = self.thread.take()?;
        self.stop.asked.store(true, Ordering::Relaxed);
        if let Err(error) = self.stop.event.notify() {
            tracing::error!(%error, "cannot wake a queue's thread to stop it");
        }
        thread.join().ok()
    }
}

impl Drop for QueueWorker {
    fn drop(&mut self) {
        self.end();
    }
}

struct Loop<H> {
    queue: Virtqueue,
    handler: H,
    stop: Arc<Stop>,
    poller: Poller,
    kicks: Kicks,
    chain: Chain,
}

impl<H: QueueHandler> Loop<H> {
    fn run(mut self) -> QueueState {
        while !self.stop_asked() {
            let waited = match self.serve_available() {
                Ok(None) => self.wait(Kicks::Awaited, None),
                Ok(Some(pause)) => self.wait(Kicks::Ignored, Some(pause)),
                Err(error) => {
                    if let Some(left_out) = BROKEN.permit() {
                        let thread = thread::current();
                        let name = thread.name().unwrap_or_default();
                        tracing::warn!(queue = name, %error, left_out, "the guest's queue is broken");
                    }
                    self.queue.break_down();
                    self.wait(Kicks::Ignored, None)
                }
            };
            if let Err(error) = waited {
                tracing::error!(%error, "cannot wait for a queue's events");
                self.queue.break_down();
                break;
            }
        }
        self.queue.into_state()
    }

    fn stop_asked(&self) -> bool {
        self.stop.asked.load(Ordering::Relaxed)
    }

    /// Answers chains until there are none; says for how long to pause if the device asked for that.
    fn serve_available(&mut self) -> Result<Option<Duration>, QueueError> {
        loop {
            self.queue.disable_kicks(&self.queue.memory())?;
            while !self.stop_asked() {
                let memory = self.queue.memory();
                if !self.queue.pop(&memory, &mut self.chain)? {
                    break;
                }
                match self.handler.serve(&self.chain, &memory) {
                    Served::Done(written) => {
                        self.queue.complete(&memory, self.chain.head(), written)?;
                        // With the event index this interrupts only a driver that waits, so each answer may ask.
                        self.queue.notify(&memory)?;
                    }
                    Served::Later(pause) => {
                        self.queue.undo_pop();
                        return Ok(Some(pause));
                    }
                }
            }
            if self.stop_asked() || !self.queue.enable_kicks(&self.queue.memory())? {
                return Ok(None);
            }
        }
    }

    /// Waits for the stop, a kick if one is wanted, or the time.
    fn wait(&mut self, wanted: Kicks, timeout: Option<Duration>) -> io::Result<()> {
        self.watch(wanted)?;
        let (mut kicked, mut gone) = (false, false);
        for ready in self.poller.wait(timeout)? {
            kicked |= ready.token == KICK && ready.readable;
            gone |= ready.token == KICK && ready.hangup;
        }
        if gone {
            // No event does that: it is something else that the transport's peer has closed.
            self.queue.break_down();
        } else if kicked {
            self.queue.kick().clear()?;
        }
        Ok(())
    }

    fn watch(&mut self, wanted: Kicks) -> io::Result<()> {
        if wanted == self.kicks {
            return Ok(());
        }
        let kick = self.queue.kick();
        match wanted {
            Kicks::Awaited => self.poller.add(kick, KICK, Interest::READ)?,
            Kicks::Ignored => self.poller.delete(kick)?,
        }
        self.kicks = wanted;
        Ok(())
    }
}

/// Whether a kick wakes the thread. It stays raised while it is ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kicks {
    Awaited,
    Ignored,
}
