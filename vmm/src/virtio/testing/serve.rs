//! A queue that is served by the thread of the test itself: the same each time, and fast enough for a fuzzer.

use std::cell::Cell;

use crate::virtio::pace::Pace;
use crate::virtio::worker::serve_available;
use crate::virtio::{Chain, DeviceError, QueueError, QueueHandler, QueueResources, QueueState, Virtqueue};

/// A queue and what serves it, without a thread.
pub struct ServedQueue<H> {
    queue: Virtqueue,
    handler: H,
    chain: Chain,
    pace: Pace,
}

impl<H: QueueHandler> ServedQueue<H> {
    /// Takes a queue over.
    pub fn new(
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
        handler: H,
    ) -> Result<Self, DeviceError> {
        let queue = Virtqueue::new(0, resources, features, state)?;
        Ok(Self { queue, handler, chain: Chain::new(), pace: Pace::default() })
    }

    /// Serves what is available, but no more than `limit` chains: a device that is told to write to the rings can
    /// make work for itself without end.
    pub fn serve(&mut self, limit: u32) -> Result<(), QueueError> {
        let left = Cell::new(limit);
        let stopped = || left.replace(left.get().saturating_sub(1)) == 0;
        serve_available(&mut self.queue, &mut self.handler, &mut self.chain, &mut self.pace, stopped)?;
        Ok(())
    }

    /// Gives the queue up.
    pub fn stop(self) -> QueueState {
        self.queue.into_state()
    }
}
