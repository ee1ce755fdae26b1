//! The MMIO transport, with real devices behind it, under a driver that does anything to the registers. Whatever it
//! does, the device is well for the driver that comes afterwards.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vmm::virtio::VirtioDevice;
use vmm::virtio::block::Block;
use vmm::virtio::entropy::Entropy;
use vmm::virtio::testing::{Buffer, GuestQueue, MemoryDisk, MmioDriver, TestMemory, register, status};
use vmm::virtio::vsock::{GuestCid, VsockDevice};
use vmm_fuzz::{MEMORY, Piece, Place, add};

const SIZE: u16 = 16;
/// No more drivers than this bring queues of their own; the next ones take the last one's.
const MOST_SET_UPS: usize = 8;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Reads anything.
    Read { offset: u16, width: u8 },
    /// Writes anything.
    Write { offset: u16, width: u8, value: u64 },
    /// Reads a register as a driver does.
    Load { register: u8 },
    /// Writes a register as a driver does.
    Store { register: u8, value: Value },
    /// Negotiates and sets all queues up, but for some.
    SetUp { without: u64, queues: u8 },
    /// Makes a chain available and notifies the device by the register or past it.
    Chain { queue: u8, pieces: Vec<Piece>, indirect: bool, by_register: bool },
    /// Writes into a ring.
    Ring { queue: u8, at: u8, head: u16, index: u16 },
    /// Writes into memory.
    Bytes { place: Place, bytes: [u8; 16] },
}

/// What may mean something to a register.
#[derive(Arbitrary, Debug)]
enum Value {
    Small(u8),
    Place(Place),
    Any(u32),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Entropy,
    Block,
    Vsock,
}

fuzz_target!(|input: (Kind, Vec<Step>)| {
    let (kind, steps) = input;
    let mut memory = TestMemory::new(MEMORY);
    let mut last = GuestQueue::with_table_room(&mut memory, SIZE, 1);
    let answer = memory.allocate(64);
    let driver = make_driver(kind, &memory);
    // Made first: chains take what room is left.
    let count = driver.transport().kicks().len();
    let mut make = || (0..count).map(|_| GuestQueue::with_table_room(&mut memory, SIZE, 16)).collect();
    let mut sets: Vec<Vec<GuestQueue>> = (0..MOST_SET_UPS).map(|_| make()).collect();
    let mut queues = Vec::new();
    for step in &steps {
        match step {
            Step::Read { offset, width } => {
                let width = usize::from(width % 17);
                driver.transport().read(u64::from(*offset) % 0x1100, &mut vec![0xaa; width]);
            }
            Step::Write { offset, width, value } => {
                let width = usize::from(width % 17);
                let bytes = [value.to_le_bytes(), value.to_le_bytes()].concat();
                driver.transport().write(u64::from(*offset) % 0x1100, &bytes[..width]);
            }
            Step::Load { register } => {
                let place = u64::from(register % 68) * 4;
                check(place, driver.read(place));
            }
            Step::Store { register, value } => {
                let value = match value {
                    Value::Small(value) => u32::from(*value),
                    Value::Place(place) => u32::try_from(place.address() & 0xffff_ffff).expect("half of it"),
                    Value::Any(value) => *value,
                };
                driver.write(u64::from(register % 68) * 4, value);
            }
            Step::SetUp { without, queues: wanted } => {
                if let Some(next) = sets.pop() {
                    queues = next;
                }
                // Without the version, the device refuses what is left.
                driver.negotiate(without & !(1 << 32));
                for (index, queue) in (0..).zip(&queues).filter(|(index, _)| wanted & 1 << index == 0) {
                    driver.set_queue(index, queue);
                }
                driver.driver_ok();
            }
            Step::Chain { queue, pieces, indirect, by_register } => {
                let index = usize::from(*queue) % driver.transport().kicks().len();
                let Some(queue) = queues.get_mut(index) else { continue };
                add(&mut memory, queue, pieces, *indirect);
                if *by_register {
                    driver.notify(u32::try_from(index).expect("a small number"));
                } else {
                    driver.transport().kicks()[index].notify().expect("an event to raise");
                }
            }
            Step::Ring { queue, at, head, index } => {
                let which = usize::from(*queue) % driver.transport().kicks().len();
                let Some(queue) = queues.get(which) else { continue };
                queue.raw_available_entry((*at).into(), *head);
                queue.raw_available_index(*index);
            }
            Step::Bytes { place, bytes } => {
                let address = place.address();
                if address <= (MEMORY - bytes.len()) as u64 {
                    memory.write(address, bytes);
                }
            }
        }
    }
    if steps.len() % 4 == 0 {
        driver.transport().shutdown();
        return;
    }
    driver.reset();
    assert_eq!((driver.status(), driver.read(register::INTERRUPT_STATUS)), (0, 0));
    serve_the_next(kind, &driver, &memory, &mut last, answer);
});

/// No register has bits that do not exist.
fn check(register: u64, value: u32) {
    let existing = match register {
        register::STATUS => 0xf | status::DEVICE_NEEDS_RESET | status::FAILED,
        register::INTERRUPT_STATUS => 3,
        register::QUEUE_READY => 1,
        register::QUEUE_NUM_MAX => 0x3ff,
        _ => u32::MAX,
    };
    assert_eq!(value & !existing, 0, "{register:#x}");
}

fn make_driver(kind: Kind, memory: &TestMemory) -> MmioDriver {
    match kind {
        Kind::Entropy => MmioDriver::new(Entropy::new(), memory),
        Kind::Block => {
            let disk = MemoryDisk::new(vec![0x5a; 64 * 512 + 77]);
            let device = Block::new(Arc::new(disk), "fuzz", 2);
            assert_eq!(device.queue_sizes().len(), 2);
            MmioDriver::new(device, memory)
        }
        Kind::Vsock => {
            let socket = std::env::temp_dir().join(format!("vmm-fuzz-mmio-{}", std::process::id()));
            let cid = GuestCid::try_from(3).expect("no reserved address");
            MmioDriver::new(VsockDevice::new(cid, &socket).expect("a socket"), memory)
        }
    }
}

/// A driver that keeps to the rules is served.
fn serve_the_next(kind: Kind, driver: &MmioDriver, memory: &TestMemory, queue: &mut GuestQueue, room: u64) {
    let (index, chain, written) = match kind {
        Kind::Entropy => (0, vec![Buffer::writable(room, 64)], 64),
        // The disk's name.
        Kind::Block => (1, vec![Buffer::readable(room, 16), Buffer::writable(room + 16, 21)], 21),
        // A packet that is none.
        Kind::Vsock => (1, vec![Buffer::readable(room, 44)], 0),
    };
    memory.write(room, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    queue.start_at(0);
    driver.probe(1 << 29);
    driver.set_queue(index, queue);
    driver.driver_ok();
    queue.add(&chain);
    driver.notify(index);
    assert_eq!(driver.wait_used(queue).written, written);
}
