//! Real devices, driven by their registers from the probe to the end.

use std::sync::Arc;

use super::MEMORY;
use crate::virtio::RING_EVENT_INDEX;
use crate::virtio::block::Block;
use crate::virtio::entropy::Entropy;
use crate::virtio::testing::{Buffer, GuestQueue, MemoryDisk, MmioDriver, TestMemory, register, status};
use crate::virtio::vsock::{GuestCid, VsockDevice};

const SECTOR: usize = 512;
const READ: u32 = 0;
const WRITE: u32 = 1;

/// A queue that a driver set up with the event index.
fn set_up(driver: &MmioDriver, memory: &mut TestMemory, index: u32, size: u16) -> GuestQueue {
    let mut queue = GuestQueue::new(memory, size);
    queue.use_event_index();
    driver.set_queue(index, &queue);
    queue
}

/// A source of entropy that runs.
fn entropy() -> (TestMemory, MmioDriver, GuestQueue) {
    let mut memory = TestMemory::new(MEMORY);
    let driver = MmioDriver::new(Entropy::new(), &memory);
    driver.probe(0);
    let queue = set_up(&driver, &mut memory, 0, 64);
    driver.driver_ok();
    (memory, driver, queue)
}

/// Asks for entropy and gets it.
fn expect_entropy(memory: &mut TestMemory, driver: &MmioDriver, queue: &mut GuestQueue) {
    let address = memory.allocate(32);
    queue.add(&[Buffer::writable(address, 32)]);
    driver.notify(0);
    assert_eq!(driver.wait_used(queue).written, 32);
    assert_ne!(memory.read(address, 32), [0; 32]);
}

#[test]
fn entropy_comes_through_registers() {
    let (mut memory, driver, mut queue) = entropy();
    for _ in 0..3 {
        expect_entropy(&mut memory, &driver, &mut queue);
    }
    // The hypervisor notifies the device without the register.
    let address = memory.allocate(32);
    queue.add(&[Buffer::writable(address, 32)]);
    driver.transport().kicks()[0].notify().unwrap();
    assert_eq!(driver.wait_used(&mut queue).written, 32);
}

#[test]
fn a_device_serves_one_driver_after_the_other() {
    let (mut memory, driver, mut queue) = entropy();
    for without in [0, RING_EVENT_INDEX, 0] {
        expect_entropy(&mut memory, &driver, &mut queue);
        // The next driver comes while the device is at work for the last one, whose memory it leaves alone from then.
        let address = memory.allocate(4096);
        for _ in 0..16 {
            queue.add(&[Buffer::writable(address, 4096)]);
        }
        driver.notify(0);
        driver.negotiate(without);
        memory.write(address, &[0; 4096]);
        queue = GuestQueue::with_table_room(&mut memory, 32, 1);
        if without == 0 {
            queue.use_event_index();
        }
        driver.set_queue(0, &queue);
        driver.driver_ok();
        assert_eq!(memory.read(address, 4096), [0; 4096]);
    }
    expect_entropy(&mut memory, &driver, &mut queue);
}

#[test]
fn a_driver_that_breaks_its_ring_is_told_to_reset_the_device_and_may_begin_anew() {
    let (mut memory, driver, mut queue) = entropy();
    expect_entropy(&mut memory, &driver, &mut queue);
    driver.write(register::INTERRUPT_ACK, 3);
    driver.line().clear().unwrap();
    queue.raw_available_index(1000);
    driver.notify(0);
    assert_eq!(driver.wait_for_interrupt() & 2, 2);
    assert_eq!(driver.status(), 0xf | status::DEVICE_NEEDS_RESET);

    driver.negotiate(0);
    let mut queue = set_up(&driver, &mut memory, 0, 64);
    driver.driver_ok();
    expect_entropy(&mut memory, &driver, &mut queue);
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn a_queue_where_none_can_be_makes_the_device_ask_for_a_reset() {
    let mut memory = TestMemory::new(MEMORY);
    let driver = MmioDriver::new(Entropy::new(), &memory);
    let good = GuestQueue::new(&mut memory, 16).layout();
    let end = MEMORY as u64;
    let places = [good.descriptor_table, good.available_ring, good.used_ring].map(|place| place.0);
    for (size, [descriptors, available, used]) in [
        (0, places),
        (3, places),
        (65, places),
        (128, places),
        (16, [end - 16, places[1], places[2]]),
        (16, [places[0], end - 2, places[2]]),
        (16, [places[0], places[1], u64::MAX - 3]),
        (16, [places[0] + 8, places[1], places[2]]),
        (16, [u64::MAX << 4; 3]),
    ] {
        driver.negotiate(0);
        driver.write(register::QUEUE_NUM, size);
        driver.write_address(register::QUEUE_DESC_LOW, descriptors);
        driver.write_address(register::QUEUE_DRIVER_LOW, available);
        driver.write_address(register::QUEUE_DEVICE_LOW, used);
        driver.write(register::QUEUE_READY, 1);
        driver.driver_ok();
        assert_eq!(driver.wait_for_interrupt(), 2, "{size} at {descriptors:#x}, {available:#x}, {used:#x}");
        assert_eq!(driver.status(), 0xf | status::DEVICE_NEEDS_RESET);
    }
}

/// One request to a disk, by the queue of this number; says its status and what was read.
fn request(
    memory: &mut TestMemory,
    driver: &MmioDriver,
    (index, queue): (u32, &mut GuestQueue),
    (kind, sector): (u32, u64),
    data: &[u8],
) -> (u8, Vec<u8>) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    let header = Buffer::readable(memory.allocate_bytes(&header), 16);
    let place = memory.allocate_bytes(data);
    let length = u32::try_from(data.len()).unwrap();
    let data = Buffer { address: place, length, writable: kind == READ };
    let status = memory.allocate_bytes(&[0xaa]);
    queue.add_indirect(&[header, data, Buffer::writable(status, 1)]);
    driver.notify(index);
    driver.wait_used(queue);
    (memory.read(status, 1)[0], memory.read(place, length as usize))
}

#[test]
fn a_disk_is_read_and_written_through_registers() {
    let mut memory = TestMemory::new(8 << 20);
    let disk = Arc::new(MemoryDisk::new(vec![0; 64 * SECTOR]));
    let driver = MmioDriver::new(Block::new(disk.clone(), "root", 2), &memory);
    driver.probe(0);
    // A field of 64 bits, as Linux reads it.
    let generation = driver.read(register::CONFIG_GENERATION);
    let halves = [driver.read_config::<4>(0), driver.read_config::<4>(4)];
    assert_eq!(driver.read(register::CONFIG_GENERATION), generation);
    assert_eq!(halves.as_flattened(), 64u64.to_le_bytes());
    let mut queues = [0, 1].map(|index| set_up(&driver, &mut memory, index, 256));
    driver.driver_ok();

    for (index, queue) in (0u8..).zip(&mut queues) {
        let (number, sector) = (u32::from(index), u64::from(index));
        let written = vec![index + 1; SECTOR];
        let answer = request(&mut memory, &driver, (number, queue), (WRITE, sector), &written);
        assert_eq!(answer, (0, written.clone()));
        let answer = request(&mut memory, &driver, (number, queue), (READ, sector), &vec![0; SECTOR]);
        assert_eq!(answer, (0, written));
    }
    // The driver chooses the cache mode by a byte of the configuration: from now on, each write is flushed.
    assert_eq!(disk.flushes(), 0);
    driver.transport().write(register::CONFIG + 32, &[0]);
    assert_eq!(driver.read_config::<1>(32), [0]);
    request(&mut memory, &driver, (0, &mut queues[0]), (WRITE, 5), &vec![9; SECTOR]);
    assert_eq!(disk.flushes(), 1);
    // The end comes while requests are in flight.
    driver.notify(0);
    driver.transport().shutdown();
    assert_eq!(Arc::strong_count(&disk), 1);
    assert_eq!(disk.bytes()[..2 * SECTOR], [vec![1; SECTOR], vec![2; SECTOR]].concat());
}

#[test]
fn a_socket_of_the_guest_is_answered_through_registers() {
    let folder = tempfile::tempdir().unwrap();
    let cid = GuestCid::try_from(3).unwrap();
    let device = VsockDevice::new(cid, &folder.path().join("vsock")).unwrap();
    let mut memory = TestMemory::new(8 << 20);
    let driver = MmioDriver::new(device, &memory);
    driver.probe(0);
    assert_eq!([driver.read_config::<4>(0), driver.read_config::<4>(4)], [[3, 0, 0, 0], [0; 4]]);
    let [mut receive, mut transmit, _event] =
        [(0, 128), (1, 128), (2, 16)].map(|(index, size)| set_up(&driver, &mut memory, index, size));
    driver.driver_ok();

    let answer = memory.allocate(4096);
    receive.add(&[Buffer::writable(answer, 4096)]);
    driver.notify(0);
    // A connection (5.10.6) from port 5000 to the host's port 99, where nobody listens: it is reset.
    let mut packet = [3u64, 2].map(u64::to_le_bytes).as_flattened().to_vec();
    packet.extend([5000u32, 99, 0].map(u32::to_le_bytes).as_flattened());
    packet.extend([1u16, 1].map(u16::to_le_bytes).as_flattened());
    packet.extend([0u32, 1 << 16, 0].map(u32::to_le_bytes).as_flattened());
    let packet = memory.allocate_bytes(&packet);
    transmit.add(&[Buffer::readable(packet, 44)]);
    driver.notify(1);
    assert_eq!(driver.wait_used(&mut transmit).written, 0);
    assert_eq!(driver.wait_used(&mut receive).written, 44);
    let answer = memory.read(answer, 44);
    assert_eq!(answer[16..24], [99u32, 5000].map(u32::to_le_bytes).concat());
    assert_eq!(answer[30..32], 3u16.to_le_bytes());
}
