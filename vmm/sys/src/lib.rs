//! The thin layer over the operating system: events, polling, shared memory, descriptors over sockets, locks.
//!
//! Everything may depend on this package; it depends on nothing of ours. It is one of the few places where
//! `unsafe` is allowed, so that the rest needs none.

pub mod allocator;
pub mod beneath;
pub mod child;
pub mod clock;
pub mod cycle_counter;
#[cfg(target_os = "linux")]
pub mod entropy;
pub mod event;
#[cfg(target_os = "linux")]
pub mod ext4;
pub mod fd_passing;
pub mod file;
#[cfg(target_os = "linux")]
pub mod fork;
#[cfg(target_os = "linux")]
pub mod freeze;
pub mod kill;
pub mod lock;
pub mod memory;
#[cfg(target_os = "linux")]
pub mod mounts;
pub mod pages;
pub mod peer;
pub mod poller;
#[cfg(target_os = "linux")]
pub mod prepared_child;
pub mod process;
pub mod scattered;
pub mod signals;
#[cfg(target_os = "linux")]
pub mod spawn;
#[cfg(target_os = "linux")]
pub mod system_call_filter;
#[cfg(target_os = "linux")]
pub mod thread_wakeup;
pub mod unix_socket;
#[cfg(target_os = "linux")]
pub mod vsock;
pub mod watch;

pub use event::Event;
pub use lock::FileLock;
pub use poller::{Interest, Poller, Ready};
