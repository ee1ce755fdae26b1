//! virtio-vsock: stream sockets between the guest and programs on the host (virtio 1.2, 5.10).
//!
//! On the host they are Unix sockets. A program that wants a port of the guest connects to the device's socket,
//! writes `CONNECT <port>\n` and reads `OK <port of its own>\n` when the guest accepts; when it does not, the
//! connection is closed without a word. A connection of the guest's to port `p` of the host (address 2) goes to the
//! Unix socket `<socket>_<p>`, and is reset if nobody listens there.
//!
//! One thread serves everything. What it holds for a connection is bounded by the credit that the guest was given;
//! what a program writes stays in its socket until the guest has a buffer for it.

mod client;
mod connection;
mod credit;
mod from_guest;
mod host;
mod packet;
mod session;
mod state;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod to_guest;
mod worker;

use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snafu::{OptionExt, ResultExt, Snafu, ensure};

use self::state::{QUEUE_SIZES, State};
use self::worker::Worker;
use super::device::{NoSuchQueueSnafu, QueueRunningSnafu, StartSnafu};
use super::{DeviceError, DeviceType, QueueResources, QueueState, VirtioDevice, Virtqueue};

/// `VIRTIO_VSOCK_F_STREAM`: there are stream sockets, and no others.
const STREAM_SOCKETS: u64 = 1 << 0;

/// The address of a guest (virtio 1.2, 5.10.4): not one of the reserved ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestCid(u32);

/// An address that no guest may have.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display(
    "a guest cannot have the vsock address {cid}: it is reserved; use one from 3 to 4294967294"
))]
pub struct ReservedCid {
    cid: u32,
}

impl TryFrom<u32> for GuestCid {
    type Error = ReservedCid;

    fn try_from(cid: u32) -> Result<Self, ReservedCid> {
        // 0 is the hypervisor, 1 the machine itself, 2 the host, and the last stands for any address.
        ensure!((3..u32::MAX).contains(&cid), ReservedCidSnafu { cid });
        Ok(Self(cid))
    }
}

impl From<GuestCid> for u64 {
    fn from(cid: GuestCid) -> Self {
        cid.0.into()
    }
}

impl fmt::Display for GuestCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many connections a device has at once. One more is refused, from whichever side it comes.
///
/// Each has a descriptor; as many clients again may have connected and not said what they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimit(NonZeroU16);

impl ConnectionLimit {
    /// So many.
    pub const fn new(count: NonZeroU16) -> Self {
        Self(count)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self(NonZeroU16::MIN.saturating_add(1023))
    }
}

/// Why a vsock device cannot be made.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(self)))]
#[non_exhaustive]
pub enum VsockError {
    /// The path of the socket does not fit into an address.
    #[snafu(display(
        "the vsock socket's path is {length} bytes long and may have {limit}: {}; use a shorter folder",
        path.display()
    ))]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
        /// The system's limit.
        limit: usize,
    },
    /// There is something at the path that is not a dead socket of an earlier run.
    #[snafu(display("the vsock socket {} is in use, or it is something else", path.display()))]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[snafu(display("cannot listen on the vsock socket {}", path.display()))]
    Listen {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The host has no descriptor left.
    #[snafu(display("cannot wait for the vsock socket"))]
    Poll {
        /// The cause.
        source: io::Error,
    },
}

/// The device. Its socket is there as long as it is.
pub struct VsockDevice {
    guest: GuestCid,
    /// Held by the worker for as long as it runs.
    state: Arc<Mutex<State>>,
    /// It runs while there is a queue to serve.
    worker: Option<Worker>,
}

impl VsockDevice {
    /// Makes the device and its socket.
    pub fn new(guest: GuestCid, socket: &Path) -> Result<Self, VsockError> {
        Self::with_limit(guest, socket, ConnectionLimit::default())
    }

    /// Makes the device and its socket, with a limit of its own.
    pub fn with_limit(guest: GuestCid, socket: &Path, limit: ConnectionLimit) -> Result<Self, VsockError> {
        let state = Arc::new(Mutex::new(State::new(guest, socket, limit)?));
        Ok(Self { guest, state, worker: None })
    }

    /// Drops all connections and tells the driver of it, as when the machine was moved or restored: it closes its
    /// sockets and reads its address anew (virtio 1.2, 5.10.6.7). Told when the driver has a buffer for it.
    pub fn reset_transport(&mut self) -> io::Result<()> {
        self.pause().reset_transport();
        self.resume()
    }

    /// Stops the worker, so that its state is ours.
    fn pause(&mut self) -> MutexGuard<'_, State> {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
        // A worker that panicked may have lost a queue, nothing else.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the worker if it has something to do.
    fn resume(&mut self) -> io::Result<()> {
        let is_needed = self.state.lock().unwrap_or_else(PoisonError::into_inner).serves_queues();
        if is_needed {
            self.worker = Some(Worker::start(Arc::clone(&self.state))?);
        }
        Ok(())
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        STREAM_SOCKETS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = u64::from(self.guest).to_le_bytes();
        bytes.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(config.len());
        let count = bytes.len().min(config.len() - start);
        bytes[..count].copy_from_slice(&config[start..start + count]);
    }

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {
        // The guest's address is all there is, and it is read-only.
    }

    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        QUEUE_SIZES.get(usize::from(index)).context(NoSuchQueueSnafu { index })?;
        let mut paused = self.pause();
        let started = if paused.serves_queue(index) {
            QueueRunningSnafu { index }.fail()
        } else {
            Virtqueue::new(index, resources, features, state)
                .and_then(|queue| paused.add_queue(queue).context(StartSnafu { index }))
        };
        drop(paused);
        let resumed = self.resume().context(StartSnafu { index });
        if started.is_ok() && resumed.is_err() {
            self.pause().remove_queue(index);
        }
        started.and(resumed)
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        let state = self.pause().remove_queue(index);
        if let Err(error) = self.resume() {
            tracing::error!(%error, "cannot start the vsock thread again");
            self.pause().break_down();
        }
        state
    }

    fn reset(&mut self) {
        self.pause().reset();
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        drop(self.pause());
    }
}
