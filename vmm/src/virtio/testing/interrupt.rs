//! An interrupt that a test waits for.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmm_sys::{Event, Interest, Poller};

use super::PATIENCE;
use crate::virtio::{Interrupt, Vector};

/// Counts what a device raises, for one queue and the configuration.
pub struct FakeInterrupt {
    queue: Event,
    queue_count: AtomicU64,
    config: Event,
    needs_reset: AtomicBool,
}

impl FakeInterrupt {
    /// Nothing raised yet.
    pub fn new() -> Self {
        Self {
            queue: Event::new().expect("an event"),
            queue_count: AtomicU64::new(0),
            config: Event::new().expect("an event"),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// The event behind the queue's interrupt, to be raised by somebody else.
    pub fn queue_event(&self) -> &Event {
        &self.queue
    }

    /// How often the queue's interrupt was raised.
    pub fn queue_count(&self) -> u64 {
        self.queue_count.load(Ordering::SeqCst)
    }

    /// Whether the device gave the queue up.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Waits until the queue's interrupt is raised or the device gives the queue up, and takes it back.
    pub fn wait_for_queue(&self) {
        wait_and_clear(&self.queue);
    }

    /// Waits until the configuration's interrupt is raised, and takes it back.
    pub fn wait_for_config(&self) {
        wait_and_clear(&self.config);
    }
}

impl Default for FakeInterrupt {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until an event is raised, and takes it back.
pub(super) fn wait_and_clear(event: &Event) {
    let mut poller = Poller::new().expect("a poller");
    poller.add(event, 0, Interest::READ).expect("an event to poll");
    let ready = poller.wait(Some(PATIENCE)).expect("a wait").count();
    assert!(ready > 0, "the device is silent");
    event.clear().expect("an event to clear");
}

impl Interrupt for FakeInterrupt {
    fn trigger(&self, vector: Vector) -> io::Result<()> {
        match vector {
            Vector::Queue(_) => {
                self.queue_count.fetch_add(1, Ordering::SeqCst);
                self.queue.notify()
            }
            Vector::Config => self.config.notify(),
        }
    }

    fn needs_reset(&self, _queue: u16) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.queue.notify().expect("an event to raise");
    }
}
