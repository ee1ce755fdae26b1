//! The thread of the queue with what is typed: it waits for the guest's buffers first, then for bytes to put into them.

use std::fs::File;
use std::io::{self, Read};
use std::thread::JoinHandle;

use vmm_sys::{Event, Interest, Poller, Ready};

use crate::threads::{self, Role};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, QueueError, QueueState, Virtqueue};

static BROKEN: LogLimit = LogLimit::new();

const STOP: u64 = 0;
const KICK: u64 = 1;
const TYPED: u64 = 2;

/// No more than this goes into a buffer. Linux has a page for each.
const PIECE: usize = 4096;

/// The thread. Dropping it stops it.
pub(super) struct ReceiveWorker {
    stop: Event,
    thread: Option<JoinHandle<QueueState>>,
}

impl ReceiveWorker {
    /// Starts the thread.
    pub(super) fn start(queue: Virtqueue, input: File) -> io::Result<Self> {
        let stop = Event::new()?;
        let poller = Poller::new()?;
        poller.add(&stop, STOP, Interest::READ)?;
        poller.add(queue.kick(), KICK, Interest::READ)?;
        poller.add(&input, TYPED, Interest::NONE)?;
        let receiver = Receiver { queue, input: Some(input), poller, chain: Chain::new() };
        let thread = threads::spawn(Role::Keyboard, "console-input", move || receiver.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the thread, and says where the queue goes on.
    pub(super) fn stop(mut self) -> Option<QueueState> {
        self.end()
    }

    fn end(&mut self) -> Option<QueueState> {
        let thread = self.thread.take()?;
        if let Err(error) = self.stop.notify() {
            tracing::error!(%error, "cannot wake a queue's thread to stop it");
        }
        thread.join().ok()
    }
}

impl Drop for ReceiveWorker {
    fn drop(&mut self) {
        self.end();
    }
}

struct Receiver {
    queue: Virtqueue,
    /// `None`: nobody types any more.
    input: Option<File>,
    poller: Poller,
    chain: Chain,
}

impl Receiver {
    fn run(mut self) -> QueueState {
        loop {
            let has_buffer = self.look_for_buffer().unwrap_or_else(|error| self.give_up(&error));
            match self.wait(has_buffer) {
                Ok(true) => return self.queue.into_state(),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for a queue's events");
                    self.queue.break_down();
                    return self.queue.into_state();
                }
            }
        }
    }

    /// Whether the guest has a buffer. Where it has not, it is to say when it has.
    fn look_for_buffer(&mut self) -> Result<bool, QueueError> {
        if self.queue.is_broken() {
            return Ok(false);
        }
        let memory = self.queue.memory();
        if self.queue.waiting(&memory) > 0 || self.queue.enable_kicks(&memory)? {
            self.queue.disable_kicks(&memory)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn give_up(&mut self, error: &QueueError) -> bool {
        if let Some(left_out) = BROKEN.permit() {
            tracing::warn!(queue = "console-input", %error, left_out, "the guest's queue is broken");
        }
        self.queue.break_down();
        false
    }

    /// Waits for what there is to do and does it; says whether that is to stop.
    fn wait(&mut self, has_buffer: bool) -> io::Result<bool> {
        if let Some(input) = &self.input {
            let interest = if has_buffer { Interest::READ } else { Interest::NONE };
            self.poller.modify(input, TYPED, interest)?;
        }
        let events: Vec<Ready> = self.poller.wait(None)?.collect();
        for ready in events {
            match ready.token {
                STOP => return Ok(true),
                KICK if ready.hangup => {
                    // No event does that: it is something else that the transport's peer has closed.
                    self.queue.break_down();
                    self.poller.delete(self.queue.kick())?;
                }
                KICK => drop(self.queue.kick().clear()?),
                // Its end is told whether somebody waits for it or not.
                _ if !has_buffer => self.input_ended()?,
                _ => {
                    if let Err(error) = self.deliver()? {
                        self.give_up(&error);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Puts what was typed into the next buffer.
    fn deliver(&mut self) -> io::Result<Result<(), QueueError>> {
        let memory = self.queue.memory();
        match self.queue.pop(&memory, &mut self.chain) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
        let mut bytes = [0; PIECE];
        let room = (self.chain.writable_length() as usize).min(PIECE);
        let count = match &mut self.input {
            // A buffer without room is given back as it is.
            Some(input) if room > 0 => match input.read(&mut bytes[..room]) {
                Ok(0) => {
                    self.queue.undo_pop();
                    self.input_ended()?;
                    return Ok(Ok(()));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.queue.undo_pop();
                    return Ok(Ok(()));
                }
                Err(error) => return Err(error),
            },
            _ => 0,
        };
        let written = u32::try_from(count).unwrap_or_default();
        let delivered = self
            .chain
            .writer(&memory)
            .write(&bytes[..count])
            .and_then(|()| self.queue.complete(&memory, self.chain.head(), written))
            .and_then(|()| self.queue.notify(&memory));
        Ok(delivered)
    }

    fn input_ended(&mut self) -> io::Result<()> {
        match self.input.take() {
            Some(input) => self.poller.delete(&input),
            None => Ok(()),
        }
    }
}
