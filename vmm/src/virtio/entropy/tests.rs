//! The device seen from the driver.

use proptest::prelude::*;

use super::Entropy;
use super::request::MAXIMUM_ANSWER;
use crate::virtio::testing::{Buffer, GuestQueue, TestMemory};
use crate::virtio::{DeviceError, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS, VirtioDevice};

fn start(size: u16) -> (TestMemory, GuestQueue, Entropy) {
    let mut memory = TestMemory::new(1 << 20);
    let queue = GuestQueue::new(&mut memory, size);
    let mut device = Entropy::new();
    device.start_queue(0, queue.resources(), RING_INDIRECT_DESCRIPTORS, None).unwrap();
    (memory, queue, device)
}

#[test]
fn a_request_is_filled_with_bytes_that_differ_each_time() {
    let (mut memory, mut queue, _device) = start(8);
    let address = memory.allocate(64);
    let mut seen = Vec::new();
    for _ in 0..4 {
        queue.add(&[Buffer::writable(address, 64)]);
        queue.kick();
        assert_eq!(queue.wait_used().written, 64);
        let bytes = memory.read(address, 64);
        assert!(!seen.contains(&bytes));
        seen.push(bytes);
    }
}

#[test]
fn a_request_with_nothing_to_write_is_given_back_empty() {
    let (mut memory, mut queue, _device) = start(8);
    let address = memory.allocate(64);
    queue.add(&[Buffer::readable(address, 64)]);
    queue.kick();
    assert_eq!(queue.wait_used().written, 0);
}

#[test]
fn a_request_for_a_gigabyte_gets_a_few_bytes() {
    let mut memory = TestMemory::with_regions(&[(0, 1 << 20), (1 << 30, 1 << 30)]);
    let mut queue = GuestQueue::new(&mut memory, 8);
    let mut device = Entropy::new();
    device.start_queue(0, queue.resources(), 0, None).unwrap();
    queue.add(&[Buffer::writable(1 << 30, 1 << 30)]);
    queue.kick();
    assert_eq!(queue.wait_used().written, MAXIMUM_ANSWER);
}

#[test]
fn a_queue_that_was_stopped_goes_on_where_it_stood() {
    let (mut memory, mut queue, mut device) = start(4);
    let address = memory.allocate(64);
    for _ in 0..3 {
        queue.add(&[Buffer::writable(address, 64)]);
        queue.kick();
        queue.wait_used();
    }
    let state = device.stop_queue(0).unwrap();
    assert_eq!((state.next_available, state.next_used), (3, 3));
    assert!(device.stop_queue(0).is_none());

    // What is made available while nothing runs is served at the start, without a kick.
    queue.add(&[Buffer::writable(address, 64)]);
    device.start_queue(0, queue.resources(), RING_EVENT_INDEX, Some(state)).unwrap();
    queue.use_event_index();
    assert_eq!(queue.wait_used().written, 64);
}

#[test]
fn there_is_one_queue_and_it_runs_once() {
    let (_memory, queue, mut device) = start(8);
    let refused = device.start_queue(0, queue.resources(), 0, None);
    assert!(matches!(refused, Err(DeviceError::QueueRunning { index: 0 })));
    let refused = device.start_queue(1, queue.resources(), 0, None);
    assert!(matches!(refused, Err(DeviceError::NoSuchQueue { index: 1 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the driver cuts its buffers, the bytes said to be written are written, and no other changes.
    #[test]
    fn exactly_the_bytes_that_it_says_are_written(
        parts in prop::collection::vec((0u32..3000, any::<bool>()), 1..20),
        indirect: bool,
    ) {
        let (mut memory, mut queue, _device) = start(64);
        // Parts to read come first.
        let mut parts = parts;
        parts.sort_by_key(|&(_, writable)| writable);
        let buffers: Vec<_> = parts
            .iter()
            .map(|&(length, writable)| {
                let address = memory.allocate(length as usize + 16);
                Buffer { address, length, writable }
            })
            .collect();
        if indirect {
            queue.add_indirect(&buffers);
        } else {
            queue.add(&buffers);
        }
        queue.kick();
        let written = queue.wait_used().written;

        let room: u32 = buffers.iter().filter(|buffer| buffer.writable).map(|buffer| buffer.length).sum();
        prop_assert_eq!(written, room.min(MAXIMUM_ANSWER));
        let mut left = written;
        for buffer in &buffers {
            let filled = if buffer.writable { buffer.length.min(left) } else { 0 };
            left -= filled;
            let bytes = memory.read(buffer.address, buffer.length as usize + 16);
            let (random, rest) = bytes.split_at(filled as usize);
            prop_assert!(random.len() < 64 || random.iter().any(|&byte| byte != 0));
            prop_assert!(rest.iter().all(|&byte| byte == 0));
        }
    }
}
