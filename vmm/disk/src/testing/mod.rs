//! The test kit: storages in memory that record, fail, and lose what was not synced. No product code uses it.

mod memory;

pub use memory::MemoryStorage;
