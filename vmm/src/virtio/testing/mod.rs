//! The driver's side of a queue, for tests and fuzz targets: devices are tried without a machine.
//!
//! ```
//! # use vmm::virtio::testing::{Buffer, GuestQueue, TestMemory};
//! let mut memory = TestMemory::new(1 << 20);
//! let mut queue = GuestQueue::new(&mut memory, 16);
//! let answer = memory.allocate(64);
//! let resources = queue.resources(); // goes to the device's `start_queue`
//! queue.add(&[Buffer::writable(answer, 64)]);
//! queue.kick();
//! // `queue.wait_used()` returns when the device has answered.
//! # drop(resources);
//! ```
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "this is the tests' side: what goes wrong here fails the test"
)]

mod disk;
#[cfg(target_os = "linux")]
mod front_end;
mod interrupt;
mod memory;
mod mmio;
mod queue;
mod serve;

pub use disk::MemoryDisk;
#[cfg(target_os = "linux")]
pub use front_end::{FrontEnd, USER_OFFSET, memory_table, pair};
pub use interrupt::FakeInterrupt;
pub use memory::TestMemory;
pub use mmio::{MmioDriver, register, status};
pub use queue::{Buffer, Completion, GuestQueue, RawDescriptor};
pub use serve::ServedQueue;

use std::time::Duration;

/// How long a test waits for what must happen before it is called hung. Nothing depends on it but the time that a
/// failing test takes.
pub const PATIENCE: Duration = Duration::from_secs(60);
