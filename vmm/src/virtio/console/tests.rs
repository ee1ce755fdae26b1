//! The device seen from the driver.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::request::MAXIMUM_TEXT;
use super::{Console, RECEIVE, TRANSMIT};
use crate::virtio::testing::{Buffer, GuestQueue, TestMemory};
use crate::virtio::{DeviceError, QueueState, RING_INDIRECT_DESCRIPTORS, VirtioDevice};

struct Driver {
    memory: TestMemory,
    queue: GuestQueue,
    device: Console,
    reader: UnixStream,
}

impl Driver {
    fn new() -> Self {
        let mut memory = TestMemory::new(1 << 20);
        let queue = GuestQueue::with_table_room(&mut memory, 16, 16);
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut device = Console::new(writer.into());
        device.start_queue(TRANSMIT, queue.resources(), RING_INDIRECT_DESCRIPTORS, None).unwrap();
        Self { memory, queue, device, reader }
    }

    /// Writes text that lies in these pieces, and waits for its buffers.
    fn writes(&mut self, pieces: &[&[u8]], indirect: bool) {
        let buffers: Vec<Buffer> = pieces
            .iter()
            .map(|piece| {
                let address = self.memory.allocate_bytes(piece);
                Buffer::readable(address, u32::try_from(piece.len()).unwrap())
            })
            .collect();
        if indirect {
            self.queue.add_indirect(&buffers);
        } else {
            self.queue.add(&buffers);
        }
        self.queue.kick();
        assert_eq!(self.queue.wait_used().written, 0);
    }

    fn hears(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }
}

#[test]
fn what_the_guest_writes_has_left_when_its_buffers_come_back() {
    let mut driver = Driver::new();
    driver.writes(&[b"Linux ", b"version"], false);
    driver.reader.set_nonblocking(true).unwrap();
    assert_eq!(driver.hears(13), b"Linux version");
}

#[test]
fn what_is_typed_is_in_the_guests_buffers_whether_it_had_them_before_or_gives_them_later() {
    let mut driver = Driver::new();
    let mut input = GuestQueue::with_table_room(&mut driver.memory, 16, 16);
    driver.device.start_queue(RECEIVE, input.resources(), 0, None).unwrap();
    let address = driver.memory.allocate(8);
    let text = |memory: &TestMemory, count: u32| memory.read(address, count as usize);
    input.add(&[Buffer::writable(address, 8)]);
    input.kick();
    driver.reader.write_all(b"ls\r").unwrap();
    let written = input.wait_used().written;
    assert_eq!(text(&driver.memory, written), b"ls\r");
    // More than a buffer holds, before there is one.
    driver.reader.write_all(b"a long line").unwrap();
    for expected in [&b"a long l"[..], b"ine"] {
        input.add(&[Buffer::writable(address, 8)]);
        input.kick();
        let written = input.wait_used().written;
        assert_eq!(text(&driver.memory, written), expected);
    }
    assert_eq!(driver.device.stop_queue(RECEIVE), Some(QueueState { next_available: 3, next_used: 3 }));
}

#[test]
fn nobody_who_types_any_more_leaves_the_buffers_where_they_are() {
    let mut driver = Driver::new();
    let mut input = GuestQueue::with_table_room(&mut driver.memory, 16, 16);
    driver.device.start_queue(RECEIVE, input.resources(), 0, None).unwrap();
    let (other, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut driver.reader, other));
    let address = driver.memory.allocate(8);
    input.add(&[Buffer::writable(address, 8)]);
    input.kick();
    assert_eq!(driver.device.stop_queue(RECEIVE), Some(QueueState::default()));
    assert_eq!(input.try_used(), None);
}

#[test]
fn a_console_that_nobody_reads_any_more_stops_no_guest() {
    let mut driver = Driver::new();
    let (other, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut driver.reader, other));
    for _ in 0..3 {
        driver.writes(&[b"is anybody there?"], false);
    }
}

#[test]
fn of_a_text_without_end_a_part_is_taken() {
    let mut driver = Driver::new();
    let mut reader = driver.reader.try_clone().unwrap();
    let heard = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    driver.queue.add(&[Buffer::readable(0, 1 << 20)]);
    driver.queue.kick();
    driver.queue.wait_used();
    drop(driver);
    assert_eq!(heard.join().unwrap(), MAXIMUM_TEXT as usize);
}

#[test]
fn buffers_for_input_stay_where_they_are() {
    let mut driver = Driver::new();
    let mut input = GuestQueue::new(&mut driver.memory, 8);
    driver.device.start_queue(RECEIVE, input.resources(), 0, None).unwrap();
    let address = driver.memory.allocate(64);
    input.add(&[Buffer::writable(address, 64)]);
    input.kick();
    driver.writes(&[b"output goes on"], false);
    assert_eq!(input.try_used(), None);
    assert_eq!(driver.device.stop_queue(RECEIVE), Some(QueueState::default()));
}

#[test]
fn a_queue_runs_once_and_goes_on_where_it_stood() {
    let mut driver = Driver::new();
    driver.writes(&[b"one"], false);
    let again = driver.device.start_queue(TRANSMIT, driver.queue.resources(), 0, None);
    assert!(matches!(again, Err(DeviceError::QueueRunning { index: TRANSMIT })));
    let none = driver.device.start_queue(2, driver.queue.resources(), 0, None);
    assert!(matches!(none, Err(DeviceError::NoSuchQueue { index: 2 })));

    let state = driver.device.stop_queue(TRANSMIT).unwrap();
    assert_eq!(state, QueueState { next_available: 1, next_used: 1 });
    assert_eq!(driver.device.stop_queue(TRANSMIT), None);
    driver.device.start_queue(TRANSMIT, driver.queue.resources(), 0, Some(state)).unwrap();
    driver.writes(&[b"two"], false);
    assert_eq!(driver.hears(6), b"onetwo");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_arrives_once_and_in_order(
        texts in proptest::collection::vec(
            (proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..600), 1..4), any::<bool>()),
            1..8,
        ),
    ) {
        let mut driver = Driver::new();
        for (pieces, indirect) in texts {
            let whole = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            driver.writes(&pieces, indirect);
            prop_assert_eq!(driver.hears(whole.len()), whole);
        }
    }
}
