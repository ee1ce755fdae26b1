//! A console under a driver that does anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::virtio::console::Console;
use vmm_fuzz::{Step, drive};

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (event_index, steps) = input;
    let output = std::fs::File::options().write(true).open("/dev/null").expect("Linux has one");
    let device = Console::new(output.into());
    drive(&steps, event_index, |_| device.queue_handler().expect("another descriptor"));
});
