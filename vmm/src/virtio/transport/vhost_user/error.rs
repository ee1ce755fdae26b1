//! Why a front end's session ended.

use std::io;

use snafu::Snafu;

use crate::memory::MapError;
use crate::virtio::DeviceError;

/// What the front end did that a session cannot go on after, or what the host lacked.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
#[non_exhaustive]
pub enum VhostUserError {
    /// The connection failed.
    #[snafu(display("cannot receive from the front end"))]
    Receive {
        /// The cause.
        source: io::Error,
    },
    /// The connection failed.
    #[snafu(display("cannot answer the front end"))]
    Send {
        /// The cause.
        source: io::Error,
    },
    /// The connection ended within a message.
    #[snafu(display("the front end closed the connection within a message"))]
    Truncated,
    /// A header is not that of a request of version 1.
    #[snafu(display("the front end sent a header with the flags {flags:#x}"))]
    Version {
        /// The flags.
        flags: u32,
    },
    /// A request that does not exist, or belongs to a feature that was not offered.
    #[snafu(display("the front end sent request {code}, which it was not offered"))]
    UnknownRequest {
        /// Its number.
        code: u32,
    },
    /// A payload is too short or too long.
    #[snafu(display("the front end sent request {code} with a payload of {size} bytes"))]
    BadLength {
        /// The request's number.
        code: u32,
        /// The payload's length.
        size: u32,
    },
    /// A field has a value that it cannot have.
    #[snafu(display("the front end sent request {code} with {value:#x} in a field"))]
    BadValue {
        /// The request's number.
        code: u32,
        /// The value.
        value: u32,
    },
    /// Descriptors are missing, or there are too many.
    #[snafu(display("the front end sent request {code} with the wrong number of descriptors"))]
    Files {
        /// The request's number.
        code: u32,
    },
    /// Features that were not offered.
    #[snafu(display(
        "the front end chose the features {features:#x}, of which {unknown:#x} were not offered"
    ))]
    Features {
        /// What it chose.
        features: u64,
        /// What of it is unknown.
        unknown: u64,
    },
    /// A ring that the device does not have.
    #[snafu(display("the front end named ring {ring}, of a device that has {count}"))]
    NoSuchRing {
        /// The ring.
        ring: u32,
        /// How many there are.
        count: usize,
    },
    /// A ring was changed while it runs.
    #[snafu(display("the front end changed ring {ring} while it runs"))]
    RingRuns {
        /// The ring.
        ring: u32,
    },
    /// A ring lies outside the memory table.
    #[snafu(display("the front end placed ring {ring} at {address:#x}, outside the memory it shares"))]
    RingOutsideMemory {
        /// The ring.
        ring: u32,
        /// The address, in the front end's address space.
        address: u64,
    },
    /// The memory table cannot be used.
    #[snafu(display("cannot use the memory that the front end shares"))]
    Memory {
        /// The cause.
        source: MapError,
    },
    /// A descriptor cannot be used as an event.
    #[snafu(display("cannot use a descriptor of the front end as an event"))]
    Event {
        /// The cause.
        source: io::Error,
    },
    /// The device cannot serve a queue, for want of something on the host.
    #[snafu(display("the device cannot start ring {ring}"))]
    Start {
        /// The ring.
        ring: u32,
        /// The cause.
        source: DeviceError,
    },
    /// The thread of the session is gone, by a fault of ours.
    #[snafu(display("the session's thread failed"))]
    Panicked,
}
