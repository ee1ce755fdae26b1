//! virtio-rng: the host's entropy for the guest (virtio 1.2, 5.4).

mod request;
mod worker;

#[cfg(test)]
mod tests;

use crate::virtio::device::{NoSuchQueueSnafu, QueueRunningSnafu, StartSnafu};
use crate::virtio::{
    DeviceError, DeviceType, QueueResources, QueueState, QueueWorker, VirtioDevice, Virtqueue,
};

use snafu::{ResultExt, ensure};

use self::worker::EntropyQueue;

/// The device has one queue, and a guest that wants many bytes asks again.
const QUEUE_SIZES: [u16; 1] = [64];

/// A source of entropy. It has no state beyond its queue's.
#[derive(Default)]
pub struct Entropy {
    worker: Option<QueueWorker>,
}

impl Entropy {
    /// A device that nothing uses yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[cfg(any(test, feature = "testing"))]
impl Entropy {
    /// What the thread of its queue runs, for a test that runs it itself.
    pub fn queue_handler(&self) -> impl crate::virtio::QueueHandler + use<> {
        EntropyQueue::new()
    }
}

impl VirtioDevice for Entropy {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// There is no configuration space (5.4.4).
    fn read_config(&self, _offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        ensure!(index == 0, NoSuchQueueSnafu { index });
        ensure!(self.worker.is_none(), QueueRunningSnafu { index });
        let queue = Virtqueue::new(index, resources, features, state)?;
        let worker = QueueWorker::start("rng".to_owned(), queue, EntropyQueue::new());
        self.worker = Some(worker.context(StartSnafu { index })?);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        if index != 0 {
            return None;
        }
        self.worker.take()?.stop()
    }

    fn reset(&mut self) {}
}
