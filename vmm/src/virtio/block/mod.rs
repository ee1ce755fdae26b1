//! virtio-blk: a disk (virtio 1.2, 5.2).
//!
//! Every queue has a thread of its own, which answers one request after the other; requests of different queues run
//! at once. Data goes between the guest's memory and the disk without a copy of ours.

mod request;
mod state;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use snafu::{OptionExt, ResultExt, ensure};
use vmm_disk::DiskImage;

use self::state::{BlockState, QUEUE_SIZE};
use self::worker::BlockQueue;
use crate::virtio::device::{NoSuchQueueSnafu, QueueRunningSnafu, StartSnafu};
use crate::virtio::{
    DeviceError, DeviceType, QueueResources, QueueState, QueueWorker, VirtioDevice, Virtqueue,
};

/// A disk for the guest.
pub struct Block {
    state: Arc<BlockState>,
    queue_sizes: Vec<u16>,
    workers: Vec<Option<QueueWorker>>,
}

impl Block {
    /// The most queues that a disk has.
    pub const MAXIMUM_QUEUES: u16 = 64;

    /// A device that nothing uses yet. `serial` is what the guest reads as the disk's name, cut to 20 bytes; there
    /// are `queues` of them, at least one and at most [`Block::MAXIMUM_QUEUES`].
    pub fn new(image: Arc<dyn DiskImage>, serial: &str, queues: u16) -> Self {
        let queues = queues.clamp(1, Self::MAXIMUM_QUEUES);
        Self {
            state: Arc::new(BlockState::new(image, serial, queues)),
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            workers: (0..queues).map(|_| None).collect(),
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Block {
    /// What the thread of each queue runs, for a test that runs it itself.
    pub fn queue_handler(&self, features: u64) -> impl crate::virtio::QueueHandler + use<> {
        BlockQueue::new(Arc::clone(&self.state), features)
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.state.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        self.state.read_config(offset, bytes);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        self.state.write_config(offset, bytes);
    }

    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        let worker = self.workers.get_mut(usize::from(index)).context(NoSuchQueueSnafu { index })?;
        ensure!(worker.is_none(), QueueRunningSnafu { index });
        let queue = Virtqueue::new(index, resources, features, state)?;
        let handler = BlockQueue::new(Arc::clone(&self.state), features);
        let started = QueueWorker::start(format!("blk-queue-{index}"), queue, handler);
        *worker = Some(started.context(StartSnafu { index })?);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.workers.get_mut(usize::from(index))?.take()?.stop()
    }

    fn reset(&mut self) {
        self.state.reset();
    }
}
