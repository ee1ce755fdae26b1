//! virtio-console: what the guest writes, many bytes at a time, and what is typed there (virtio 1.2, 5.3). One port.

mod receive;
mod request;
mod worker;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use snafu::{ResultExt, ensure};

use self::receive::ReceiveWorker;
use self::worker::TransmitQueue;
use crate::virtio::device::{NoSuchQueueSnafu, QueueRunningSnafu, StartSnafu};
use crate::virtio::{
    DeviceError, DeviceType, QueueResources, QueueState, QueueWorker, VirtioDevice, Virtqueue,
};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const QUEUE_SIZES: [u16; 2] = [16, 64];

/// The device. What the guest writes has left when its buffer comes back: an output that nobody reads holds it up. What is
/// typed waits in the socket until the guest has a buffer for it.
pub struct Console {
    socket: File,
    receive: Option<ReceiveWorker>,
    transmit: Option<QueueWorker>,
}

impl Console {
    /// The socket gets what the guest writes, and has what is typed.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), receive: None, transmit: None }
    }

    fn transmitter(&self) -> io::Result<TransmitQueue> {
        Ok(TransmitQueue::new(self.socket.try_clone()?))
    }
}

#[cfg(any(test, feature = "testing"))]
impl Console {
    /// What the thread of the queue with the guest's output runs, for a test that runs it itself.
    pub fn queue_handler(&self) -> io::Result<impl crate::virtio::QueueHandler + use<>> {
        self.transmitter()
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Each field belongs to a feature that is not offered (5.3.4).
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
        let runs = match index {
            RECEIVE => self.receive.is_some(),
            TRANSMIT => self.transmit.is_some(),
            _ => return NoSuchQueueSnafu { index }.fail(),
        };
        ensure!(!runs, QueueRunningSnafu { index });
        let queue = Virtqueue::new(index, resources, features, state)?;
        if index == RECEIVE {
            let socket = self.socket.try_clone();
            let start = |socket| ReceiveWorker::start(queue, socket);
            self.receive = Some(socket.and_then(start).context(StartSnafu { index })?);
            return Ok(());
        }
        let start = |handler| QueueWorker::start("console".to_owned(), queue, handler);
        self.transmit = Some(self.transmitter().and_then(start).context(StartSnafu { index })?);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        match index {
            RECEIVE => self.receive.take()?.stop(),
            TRANSMIT => self.transmit.take()?.stop(),
            _ => None,
        }
    }

    fn reset(&mut self) {}
}
