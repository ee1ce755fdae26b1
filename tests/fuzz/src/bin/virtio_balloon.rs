//! The queues of a balloon under a driver that does anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::virtio::balloon::Balloon;
use vmm_fuzz::{Step, drive};

fuzz_target!(|input: (bool, u8, Vec<Step>)| {
    let (event_index, queue, steps) = input;
    let device = Balloon::new();
    let index = [0, 1, 2, 4][usize::from(queue) % 4];
    drive(&steps, event_index, |_| device.queue_handler(index).expect("a queue that there is"));
});
