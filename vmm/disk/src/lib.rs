//! Block images: raw files, qcow2, chains of layers, locks. Knows no virtual machine.
//!
//! [`open_chain`] opens a disk, [`create_overlay`] makes a layer, [`inspect()`] tells what one is. `docs/disks.md`
//! says what a flush promises and how it is kept.

mod bytes;
mod chain;
mod compact;
mod copy;
mod error;
mod foreign;
mod grow;
mod image;
mod inspect;
mod live;
mod locking;
mod merge;
mod overlay;
mod partitions;
mod publish;
pub mod qcow2;
mod raw;
mod replace;
mod storage;
pub mod testing;

pub use chain::{Layer, LayerFile, MAX_LAYERS, open_chain, open_chain_files, open_chain_layers};
pub use compact::{Compacted, compact};
pub use copy::{Copied, copy_disk};
pub use error::Error;
pub use foreign::{
    ForeignDisk, ForeignError, ForeignFormat, LARGEST_FOREIGN_DISK, open_foreign, open_foreign_storage, probe,
};
pub use grow::grow;
pub use image::{DiskImage, Extent, Format, LayerSpec, Shown};
pub use inspect::{BackingName, LayerInfo, check_layer, inspect, is_untouched};
pub use live::{LiveDisk, RecordError};
pub use merge::{merge_layers, merge_layers_over};
pub use overlay::{create_overlay, create_overlay_on, create_overlay_unsynced, create_raw};
pub use partitions::{MAX_PARTITIONS, Partition, PartitionError, PartitionKind, PartitionTable, partitions};
pub use publish::{FileSystem, HostFileSystem, publish};
pub use raw::RawImage;
pub use replace::{check_replaceable, partial_beside, replace_file};
pub use storage::{FileStorage, Storage};
