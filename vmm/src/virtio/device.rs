//! The contract between a device and the transport that shows it to the guest.

use std::io;
use std::sync::Arc;

use snafu::Snafu;
use vm_memory::GuestAddress;
use vmm_sys::Event;

use crate::memory::GuestMemory;

/// The kind of a device, with its number (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DeviceType {
    /// A disk.
    Block = 2,
    /// A line for what the guest writes.
    Console = 3,
    /// A source of entropy.
    Entropy = 4,
    /// Memory that the guest gives back.
    Balloon = 5,
    /// Sockets between guest and host.
    Vsock = 19,
}

impl DeviceType {
    /// What it is called where devices are told apart.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Console => "console",
            Self::Entropy => "entropy",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
        }
    }
}

/// What can be raised to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vector {
    /// Buffers of this queue were used.
    Queue(u16),
    /// The configuration space changed.
    Config,
}

/// Raises interrupts. Given to the device by its transport; shared between the queues' threads.
pub trait Interrupt: Send + Sync {
    /// Raises `vector`. Raising one that the guest has masked is no error.
    fn trigger(&self, vector: Vector) -> io::Result<()>;

    /// The driver broke the rules of `queue`, and the device takes nothing more from it before a reset
    /// (`DEVICE_NEEDS_RESET`, virtio 1.2, 2.1.1). Called at most once for each start of a queue.
    fn needs_reset(&self, queue: u16);
}

/// Where the driver has put a queue. Nothing here has been checked: the guest wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    /// The number of descriptors.
    pub size: u16,
    /// The descriptor table.
    pub descriptor_table: GuestAddress,
    /// The available ring.
    pub available_ring: GuestAddress,
    /// The used ring.
    pub used_ring: GuestAddress,
}

/// Where a queue that ran before goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The next entry of the available ring to take.
    pub next_available: u16,
    /// The next entry of the used ring to fill.
    pub next_used: u16,
}

/// All that a device needs to serve one queue.
pub struct QueueResources {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Where the queue lies in it.
    pub layout: QueueLayout,
    /// Raised when the driver made buffers available.
    pub kick: Event,
    /// How to tell the driver that buffers were used.
    pub interrupt: Arc<dyn Interrupt>,
}

/// Why a queue cannot be served.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum DeviceError {
    /// The device has no such queue.
    #[snafu(display("the device has no queue {index}"))]
    NoSuchQueue {
        /// The queue that was asked for.
        index: u16,
    },
    /// The queue runs already.
    #[snafu(display("queue {index} runs already"))]
    QueueRunning {
        /// The queue that was asked for.
        index: u16,
    },
    /// The guest's description of the queue is not one that the specification permits.
    #[snafu(display("the guest placed queue {index} where no queue can be: {reason}"))]
    BadLayout {
        /// The queue.
        index: u16,
        /// What is wrong with it.
        reason: String,
    },
    /// The host has no thread or descriptor left for the queue.
    #[snafu(display("cannot start queue {index}"))]
    Start {
        /// The queue.
        index: u16,
        /// The cause.
        source: io::Error,
    },
}

/// A virtio device, seen from its transport.
///
/// The transport negotiates features, then starts each queue that the driver made ready. Queues start and stop one
/// by one: MMIO starts all of them at `DRIVER_OK`, vhost-user whenever the front end says so, and a snapshot stops
/// each and keeps its state. All methods are called from one thread at a time.
pub trait VirtioDevice: Send {
    /// What it is.
    fn device_type(&self) -> DeviceType;

    /// The features it offers beside those of the ring and the transport, which the transport adds
    /// (`VIRTIO_F_VERSION_1`, `VIRTIO_RING_F_EVENT_IDX`, `VIRTIO_RING_F_INDIRECT_DESC`).
    fn features(&self) -> u64;

    /// The size that a transport offers to the driver for each of its queues; their number is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Copies from the configuration space. What lies past its end reads as zero.
    fn read_config(&self, offset: u64, bytes: &mut [u8]);

    /// The driver wrote to the configuration space. Fields that are read-only ignore it.
    fn write_config(&mut self, offset: u64, bytes: &[u8]);

    /// Starts to serve a queue with the `features` that were negotiated; `state` says where a queue that ran before
    /// goes on. The layout is checked here, whatever the transport did.
    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError>;

    /// Stops a queue and returns with nothing of it in flight: what was taken from it is completed or untaken.
    /// `None`: it does not run.
    fn stop_queue(&mut self, index: u16) -> Option<QueueState>;

    /// Back to the state after creation. Called with no queue running.
    fn reset(&mut self);
}
