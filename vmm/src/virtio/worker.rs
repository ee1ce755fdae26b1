//! The thread that serves one queue of a device which answers each chain at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys::{Event, Interest, Poller};

use super::log_limit::LogLimit;
use super::pace::Pace;
use super::{Chain, QueueError, QueueState, Virtqueue};
use crate::memory::Regions;
use crate::threads::{self, Role};

static BROKEN: LogLimit = LogLimit::new();

const STOP: u64 = 0;
const KICK: u64 = 1;

/// How many of the chains that wait are shown to a device that looks ahead.
const FARTHEST: u16 = 64;

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

    /// Whether answers come so soon that the driver may be told of several at once.
    fn is_quick(&self) -> bool {
        false
    }

    /// Whether the chains behind the next one are to be shown to [`QueueHandler::foresee`] now.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Sees a chain that is to be served soon. It may look different then, or not come at all.
    fn foresee(&mut self, chain: &Chain, memory: &Regions) {
        let _ = (chain, memory);
    }
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

impl Stop {
    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
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
            Loop {
                queue,
                handler,
                stop: its_stop,
                poller,
                kicks: Kicks::Awaited,
                chain: Chain::new(),
                pace: Pace::default(),
            }
            .run()
        };
        let thread = threads::spawn(Role::Queue, name, run)?;
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

/// What a device that looks ahead has seen of the chains that wait.
#[derive(Default)]
struct Foreseen {
    /// How many, from the next one on.
    count: u16,
    chain: Chain,
}

impl Foreseen {
    /// The next chain was popped.
    fn pass(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// Shows the device what it has not seen.
    fn look(&mut self, queue: &Virtqueue, handler: &mut impl QueueHandler, memory: &Regions) {
        while self.count < FARTHEST && queue.peek(memory, self.count, &mut self.chain) {
            handler.foresee(&self.chain, memory);
            self.count += 1;
        }
    }
}

/// Answers chains until there are none or it is to stop; says for how long to pause if the device asked for that.
pub(super) fn serve_available(
    queue: &mut Virtqueue,
    handler: &mut impl QueueHandler,
    chain: &mut Chain,
    pace: &mut Pace,
    stopped: impl Fn() -> bool,
) -> Result<Option<Duration>, QueueError> {
    let mut foreseen = Foreseen::default();
    loop {
        queue.disable_kicks(&queue.memory())?;
        while !stopped() {
            let memory = queue.memory();
            if !queue.pop(&memory, chain)? {
                if handler.is_quick() && pace.pause(|| queue.waiting(&memory) > 0) {
                    continue;
                }
                break;
            }
            foreseen.pass();
            if handler.looks_ahead() {
                foreseen.look(queue, handler, &memory);
            }
            pace.begin();
            match handler.serve(chain, &memory) {
                Served::Done(written) => {
                    queue.complete(&memory, chain.head(), written)?;
                    // What may take long keeps nobody waiting for what is done.
                    if pace.is_due(queue.waiting(&memory)) || !handler.is_quick() {
                        tell(queue, pace)?;
                    }
                }
                Served::Later(pause) => {
                    queue.undo_pop();
                    tell(queue, pace)?;
                    return Ok(Some(pause));
                }
            }
        }
        tell(queue, pace)?;
        if stopped() || !queue.enable_kicks(&queue.memory())? {
            return Ok(None);
        }
    }
}

/// Tells the driver of what was answered since it was told last.
fn tell(queue: &mut Virtqueue, pace: &mut Pace) -> Result<(), QueueError> {
    if pace.end() { queue.notify(&queue.memory()) } else { Ok(()) }
}

struct Loop<H> {
    queue: Virtqueue,
    handler: H,
    stop: Arc<Stop>,
    poller: Poller,
    kicks: Kicks,
    chain: Chain,
    pace: Pace,
}

impl<H: QueueHandler> Loop<H> {
    fn run(mut self) -> QueueState {
        while !self.stop.asked() {
            let stop = Arc::clone(&self.stop);
            let stopped = || stop.asked();
            let Self { queue, handler, chain, pace, .. } = &mut self;
            let served = serve_available(queue, handler, chain, pace, stopped);
            let waited = match served {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::virtio::testing::{Buffer, GuestQueue, TestMemory};

    /// Answers as it is told, and tells when it was asked.
    struct Script {
        answers: mpsc::Receiver<Served>,
        asked: mpsc::Sender<u16>,
    }

    impl QueueHandler for Script {
        fn serve(&mut self, chain: &Chain, _memory: &Regions) -> Served {
            self.asked.send(chain.head()).unwrap();
            self.answers.recv().unwrap()
        }
    }

    fn start() -> (TestMemory, GuestQueue, QueueWorker, mpsc::Sender<Served>, mpsc::Receiver<u16>) {
        let mut memory = TestMemory::new(1 << 20);
        let queue = GuestQueue::new(&mut memory, 8);
        let virtqueue = Virtqueue::new(0, queue.resources(), 0, None).unwrap();
        let (answer, answers) = mpsc::channel();
        let (asked, asks) = mpsc::channel();
        let worker = QueueWorker::start("test".to_owned(), virtqueue, Script { answers, asked }).unwrap();
        (memory, queue, worker, answer, asks)
    }

    #[test]
    fn a_chain_that_is_put_off_is_offered_again_before_any_other() {
        let (mut memory, mut queue, _worker, answer, asks) = start();
        let address = memory.allocate(16);
        let first = queue.add(&[Buffer::writable(address, 16)]);
        let second = queue.add(&[Buffer::writable(address, 16)]);
        queue.kick();
        for _ in 0..3 {
            assert_eq!(asks.recv().unwrap(), first);
            answer.send(Served::Later(Duration::from_micros(1))).unwrap();
        }
        answer.send(Served::Done(1)).unwrap();
        answer.send(Served::Done(2)).unwrap();
        let completions = [queue.wait_used(), queue.wait_used()];
        assert_eq!(completions.map(|completion| completion.head), [first, second]);
        assert_eq!(completions.map(|completion| completion.written), [1, 2]);
    }

    #[test]
    fn a_stop_waits_for_the_chain_in_hand_and_takes_no_other() {
        let (mut memory, mut queue, worker, answer, asks) = start();
        let address = memory.allocate(16);
        queue.add(&[Buffer::writable(address, 16)]);
        queue.add(&[Buffer::writable(address, 16)]);
        queue.kick();
        asks.recv().unwrap();
        let stop = Arc::clone(&worker.stop);
        let stopping = thread::spawn(move || worker.stop());
        while !stop.asked() {
            thread::yield_now();
        }
        answer.send(Served::Done(16)).unwrap();
        let state = stopping.join().unwrap().unwrap();
        assert_eq!(state, QueueState { next_available: 1, next_used: 1 });
        assert_eq!(queue.try_used().unwrap().written, 16);
        assert_eq!(queue.try_used(), None);
    }

    #[test]
    fn a_stop_does_not_wait_for_a_pause_to_end() {
        let (mut memory, mut queue, worker, answer, asks) = start();
        let address = memory.allocate(16);
        queue.add(&[Buffer::writable(address, 16)]);
        queue.kick();
        asks.recv().unwrap();
        answer.send(Served::Later(Duration::MAX)).unwrap();
        assert_eq!(worker.stop(), Some(QueueState::default()));
    }

    #[test]
    fn a_queue_that_the_driver_broke_is_left_alone_until_the_stop() {
        let (_memory, queue, worker, _answer, _asks) = start();
        queue.raw_available_index(100);
        queue.kick();
        queue.wait_broken();
        queue.kick();
        assert_eq!(worker.stop(), Some(QueueState::default()));
    }
}
