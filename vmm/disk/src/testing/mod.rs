//! The test kit: storages in memory that record, fail, and lose what was not synced. No product code uses it.
//!
//! ```
//! use std::io::IoSlice;
//! use vmm_disk::Storage;
//! use vmm_disk::testing::{PowerCuts, Recorder};
//!
//! let recorder = Recorder::new(vec![0; 1024]);
//! recorder.write(&[IoSlice::new(b"first")], 0)?;
//! recorder.sync()?;
//! recorder.write(&[IoSlice::new(b"second")], 512)?;
//!
//! let mut states = 0;
//! PowerCuts::default().replay(&recorder.take_log(), |state| {
//!     states += 1;
//!     // Whatever the disk kept of the second write, it kept the first once that was synced.
//!     assert!(state.settled < 2 || state.bytes.starts_with(b"first"));
//! });
//! assert_eq!(states, 4);
//! # Ok::<(), std::io::Error>(())
//! ```

mod folder;
mod memory;
mod power_cut;
mod random;
mod recorder;

pub use folder::{FolderState, RecordedFolder};
pub use memory::MemoryStorage;
pub use power_cut::{DiskState, PowerCuts};
pub use random::Random;
pub use recorder::{Event, Log, Recorder};
