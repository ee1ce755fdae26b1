//! The entropy device under a driver that does anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::virtio::entropy::Entropy;
use vmm_fuzz::{Step, drive};

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (event_index, steps) = input;
    let device = Entropy::new();
    drive(&steps, event_index, |_| device.queue_handler());
});
