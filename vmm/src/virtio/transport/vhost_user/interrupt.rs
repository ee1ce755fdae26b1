//! The device's interrupts, raised through the descriptors that the front end gave.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys::Event;

use super::message::send_config_change;
use crate::virtio::{Interrupt, Vector};

/// Shared between the session, which replaces the descriptors at any time, and the queues' threads.
pub(super) struct CallEvents {
    rings: Vec<Mutex<RingEvents>>,
    channel: Mutex<Option<OwnedFd>>,
}

#[derive(Default)]
struct RingEvents {
    call: Option<Event>,
    /// Raised while there was no event to raise.
    pending: bool,
    error: Option<Event>,
}

impl CallEvents {
    pub(super) fn new(rings: usize) -> Self {
        Self { rings: (0..rings).map(|_| Mutex::default()).collect(), channel: Mutex::default() }
    }

    /// Replaces a ring's call event. An interrupt that found none is raised now.
    pub(super) fn set_call(&self, ring: usize, call: Option<Event>) -> io::Result<()> {
        let mut events = lock(&self.rings[ring]);
        if let Some(call) = &call
            && std::mem::take(&mut events.pending)
        {
            call.notify()?;
        }
        events.call = call;
        Ok(())
    }

    /// Replaces a ring's error event.
    pub(super) fn set_error(&self, ring: usize, error: Option<Event>) {
        lock(&self.rings[ring]).error = error;
    }

    /// Sets where changes of the configuration are told.
    pub(super) fn set_channel(&self, channel: OwnedFd) {
        *lock(&self.channel) = Some(channel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Interrupt for CallEvents {
    fn trigger(&self, vector: Vector) -> io::Result<()> {
        match vector {
            Vector::Queue(index) => {
                let Some(ring) = self.rings.get(usize::from(index)) else { return Ok(()) };
                let mut events = lock(ring);
                match &events.call {
                    Some(call) => call.notify(),
                    None => {
                        events.pending = true;
                        Ok(())
                    }
                }
            }
            // Without a channel the front end cannot be told; it reads the configuration when its guest does.
            Vector::Config => lock(&self.channel).as_ref().map_or(Ok(()), send_config_change),
        }
    }

    fn needs_reset(&self, queue: u16) {
        let Some(ring) = self.rings.get(usize::from(queue)) else { return };
        if let Some(Err(error)) = lock(ring).error.as_ref().map(Event::notify) {
            tracing::warn!(queue, %error, "cannot tell the front end that a ring is broken");
        }
    }
}
