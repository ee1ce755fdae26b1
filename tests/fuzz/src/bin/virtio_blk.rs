//! A disk under a driver that does anything. The image panics where the device asks it for what is out of bounds.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::VirtioDevice;
use vmm::virtio::block::Block;
use vmm::virtio::testing::MemoryDisk;
use vmm_fuzz::{Step, drive};

/// The disk's size: some sectors, and a rest that is none.
const DISK: usize = 64 * 512 + 77;

fuzz_target!(|input: (bool, Kind, u64, Vec<Step>)| {
    let (event_index, kind, features, steps) = input;
    let disk = match kind {
        Kind::ReadOnly => MemoryDisk::read_only(vec![0x5a; DISK]),
        Kind::Good | Kind::Failing => MemoryDisk::new(vec![0x5a; DISK]),
    };
    disk.set_failing(matches!(kind, Kind::Failing));
    let device = Block::new(Arc::new(disk), "fuzz", 1);
    // The driver chooses among the features that are offered.
    let chosen = features & device.features();
    drive(&steps, event_index, |ring_features| device.queue_handler(ring_features | chosen));
});

#[derive(Arbitrary, Debug)]
enum Kind {
    Good,
    ReadOnly,
    Failing,
}
