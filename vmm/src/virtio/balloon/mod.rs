//! virtio-balloon: memory that the guest gives back to the host (virtio 1.2, 5.5).
//!
//! In two ways: the host asks for so much of it, and the driver inflates its balloon by pages that the guest then does
//! without (`DEFLATE_ON_OOM`: unless it needs them itself); and the driver reports pages that happen to be free, which
//! it may use again at any time. Either way nothing is taken from a guest that does not offer it.

mod request;
mod state;
mod worker;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use snafu::{ResultExt, ensure};

use self::state::{BalloonState, feature};
use self::worker::BalloonQueue;
use crate::virtio::device::{NoSuchQueueSnafu, QueueRunningSnafu, StartSnafu};
use crate::virtio::{
    DeviceError, DeviceType, QueueResources, QueueState, QueueWorker, VirtioDevice, Virtqueue,
};

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
/// Where Linux has the queue of reports: it counts only the queues of features that are offered.
const REPORT_COMPACT: u16 = 2;
/// Where the specification has it (5.5.2).
const REPORT: u16 = 4;

/// The queue between the two places of the reports' is that of a feature that is not offered: it has no size.
const QUEUE_SIZES: [u16; 5] = [128, 128, 32, 0, 32];

/// The device.
#[derive(Default)]
pub struct Balloon {
    state: Arc<BalloonState>,
    workers: [Option<QueueWorker>; QUEUE_SIZES.len()],
}

/// The host's hold on a balloon: how large it is to be, and how large it is.
#[derive(Clone)]
pub struct BalloonControl(Arc<BalloonState>);

impl BalloonControl {
    /// Asks the guest to do without so many bytes, rounded down to pages of 4 KiB. It complies when it can.
    pub fn set_target(&self, bytes: u64) -> io::Result<()> {
        self.0.set_target(bytes)
    }

    /// How many bytes the guest is asked to do without.
    pub fn target(&self) -> u64 {
        self.0.target()
    }

    /// How many bytes the guest says that it does without.
    pub fn actual(&self) -> u64 {
        self.0.actual()
    }
}

impl Balloon {
    /// An empty balloon that is to stay empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// The host's hold on it, which may outlive it.
    pub fn control(&self) -> BalloonControl {
        BalloonControl(Arc::clone(&self.state))
    }
}

#[cfg(any(test, feature = "testing"))]
impl Balloon {
    /// What the thread of a queue runs, for a test that runs it itself.
    pub fn queue_handler(&self, index: u16) -> Option<impl crate::virtio::QueueHandler + use<>> {
        BalloonQueue::new(index)
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        feature::DEFLATE_ON_OUT_OF_MEMORY | feature::PAGE_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
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
        let Some(handler) = BalloonQueue::new(index) else { return NoSuchQueueSnafu { index }.fail() };
        let worker = &mut self.workers[usize::from(index)];
        ensure!(worker.is_none(), QueueRunningSnafu { index });
        let interrupt = Arc::clone(&resources.interrupt);
        let queue = Virtqueue::new(index, resources, features, state)?;
        let started = QueueWorker::start(format!("balloon-{index}"), queue, handler);
        *worker = Some(started.context(StartSnafu { index })?);
        if index == INFLATE {
            self.state.set_interrupt(Some(interrupt));
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        let worker = self.workers.get_mut(usize::from(index))?.take()?;
        if index == INFLATE {
            self.state.set_interrupt(None);
        }
        worker.stop()
    }

    fn reset(&mut self) {
        self.state.reset();
    }
}
