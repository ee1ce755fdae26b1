//! Several processors of a guest that does anything to the registers at once.

use std::sync::Arc;
use std::thread;

use crate::virtio::VirtioDevice;
use crate::virtio::block::Block;
use crate::virtio::entropy::Entropy;
use crate::virtio::testing::{Buffer, GuestQueue, MemoryDisk, MmioDriver, TestMemory, register, status};
use crate::virtio::vsock::{GuestCid, VsockDevice};

const MEMORY: usize = 1 << 18;
const PROCESSORS: u64 = 4;
const STEPS: u32 = 3000;

/// A generator of numbers that are no secret, the same each time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number that means something to some register, now and then none.
    fn value(&mut self, queue: &GuestQueue) -> u32 {
        let layout = queue.layout();
        let places = [layout.descriptor_table, layout.available_ring, layout.used_ring];
        let value = match self.below(8) {
            0..4 => self.below(16),
            4 => u64::from(layout.size),
            5 => places[usize::try_from(self.below(3)).unwrap()].0,
            6 => 1 << self.below(32),
            _ => self.next() >> 32,
        };
        u32::try_from(value).unwrap()
    }
}

/// One processor. Every so often it does what a driver does, so that there is something to disturb.
fn run(driver: &MmioDriver, queues: &[GuestQueue], seed: u64) {
    let mut numbers = Numbers(seed);
    for _ in 0..STEPS {
        let which = numbers.below(queues.len() as u64);
        let queue = &queues[usize::try_from(which).unwrap()];
        let offset = numbers.below(0x120) & !3;
        match numbers.below(100) {
            0..60 => driver.write(offset, numbers.value(queue)),
            60..80 => drop(driver.read(offset)),
            80..90 => {
                let width = usize::try_from(numbers.below(10)).unwrap();
                let at = offset + numbers.below(4);
                driver.transport().read(at, &mut vec![0; width]);
                driver.transport().write(at, &vec![numbers.next().to_le_bytes()[0]; width]);
            }
            90..95 => {
                queue.raw_available_entry(0, 0);
                queue.raw_available_index(numbers.value(queue).to_le_bytes()[0].into());
                driver.notify(u32::try_from(which).unwrap());
            }
            95..97 => driver.transport().kicks()[usize::try_from(which).unwrap()].notify().unwrap(),
            _ => set_up(driver, queues),
        }
    }
}

/// What a driver does, without looking whether it works.
fn set_up(driver: &MmioDriver, queues: &[GuestQueue]) {
    driver.reset();
    driver.add_status(status::ACKNOWLEDGE | status::DRIVER);
    driver.choose_features(driver.features());
    driver.add_status(status::FEATURES_OK);
    for (index, queue) in (0..).zip(queues) {
        let layout = queue.layout();
        driver.write(register::QUEUE_SEL, index);
        driver.write(register::QUEUE_NUM, layout.size.into());
        driver.write_address(register::QUEUE_DESC_LOW, layout.descriptor_table.0);
        driver.write_address(register::QUEUE_DRIVER_LOW, layout.available_ring.0);
        driver.write_address(register::QUEUE_DEVICE_LOW, layout.used_ring.0);
        driver.write(register::QUEUE_READY, 1);
    }
    driver.add_status(status::DRIVER_OK);
}

/// Whatever is done to it, the device is well for a driver that comes afterwards.
fn disturb(device: impl VirtioDevice + 'static) -> (TestMemory, MmioDriver) {
    let mut memory = TestMemory::new(MEMORY);
    let sizes = device.queue_sizes().to_vec();
    let driver = MmioDriver::new(device, &memory);
    let address = memory.allocate(64);
    let queues: Vec<_> = sizes
        .iter()
        .map(|_| {
            let mut queue = GuestQueue::with_table_room(&mut memory, 8, 1);
            queue.add(&[Buffer::readable(address, 16), Buffer::writable(address + 16, 48)]);
            queue
        })
        .collect();
    thread::scope(|scope| {
        for seed in 0..PROCESSORS {
            let (driver, queues) = (&driver, &queues);
            scope.spawn(move || run(driver, queues, seed));
        }
    });
    driver.probe(0);
    driver.line().clear().unwrap();
    (memory, driver)
}

#[test]
fn entropy_outlives_garbage_from_several_processors() {
    let (mut memory, driver) = disturb(Entropy::new());
    let mut queue = GuestQueue::with_table_room(&mut memory, 8, 1);
    driver.set_queue(0, &queue);
    driver.driver_ok();
    let address = memory.allocate(32);
    queue.add(&[Buffer::writable(address, 32)]);
    driver.notify(0);
    assert_eq!(driver.wait_used(&mut queue).written, 32);
}

#[test]
fn a_disk_outlives_garbage_from_several_processors() {
    let disk = Arc::new(MemoryDisk::new(vec![7; 64 * 512]));
    let (mut memory, driver) = disturb(Block::new(disk, "root", 3));
    let mut queue = GuestQueue::with_table_room(&mut memory, 8, 1);
    driver.set_queue(2, &queue);
    driver.driver_ok();
    let header = memory.allocate_bytes(&[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let answer = memory.allocate(21);
    queue.add(&[Buffer::readable(header, 16), Buffer::writable(answer, 21)]);
    driver.notify(2);
    assert_eq!(driver.wait_used(&mut queue).written, 21);
    assert_eq!(memory.read(answer, 5), b"root\0");
}

#[test]
fn sockets_outlive_garbage_from_several_processors() {
    let folder = tempfile::tempdir().unwrap();
    let cid = GuestCid::try_from(3).unwrap();
    let device = VsockDevice::new(cid, &folder.path().join("vsock")).unwrap();
    let (mut memory, driver) = disturb(device);
    let mut queue = GuestQueue::with_table_room(&mut memory, 8, 1);
    driver.set_queue(1, &queue);
    driver.driver_ok();
    let packet = memory.allocate(44);
    queue.add(&[Buffer::readable(packet, 44)]);
    driver.notify(1);
    assert_eq!(driver.wait_used(&mut queue).written, 0);
}
