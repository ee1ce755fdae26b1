//! The device's side of a queue against drivers that keep the rules, and drivers that do not.

use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::testing::{Buffer, GuestQueue, RawDescriptor, TestMemory};
use super::{
    Chain, DeviceError, QueueError, QueueLayout, QueueState, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS,
    Virtqueue,
};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn queues(size: u16, features: u64) -> (TestMemory, GuestQueue, Virtqueue) {
    let mut memory = TestMemory::new(4 << 20);
    let mut driver = GuestQueue::new(&mut memory, size);
    if features & RING_EVENT_INDEX != 0 {
        driver.use_event_index();
    }
    let device = Virtqueue::new(0, driver.resources(), features, None).unwrap();
    (memory, driver, device)
}

fn pop(device: &mut Virtqueue, chain: &mut Chain) -> Result<bool, QueueError> {
    let memory = device.memory();
    device.pop(&memory, chain)
}

/// Makes descriptors available as they are, and says what the device makes of them.
fn pop_raw(descriptors: &[RawDescriptor], features: u64) -> Result<bool, QueueError> {
    let (_memory, driver, mut device) = queues(8, features);
    for (index, descriptor) in (0..).zip(descriptors) {
        driver.raw_descriptor(index, *descriptor);
    }
    driver.raw_available_entry(0, 0);
    driver.raw_available_index(1);
    let result = pop(&mut device, &mut Chain::new());
    assert_eq!(result.is_err(), driver.interrupt().needs_reset());
    assert_eq!(result.is_err(), matches!(pop(&mut device, &mut Chain::new()), Err(QueueError::Broken)));
    result
}

fn raw(address: u64, length: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor { address, length, flags, next }
}

#[test]
fn a_layout_that_breaks_a_rule_is_refused_with_the_rule() {
    let (_memory, driver, _device) = queues(8, 0);
    let good = driver.layout();
    let end = 4 << 20;
    let cases = [
        (QueueLayout { size: 0, ..good }, "a size of 0 is no power of two"),
        (QueueLayout { size: 7, ..good }, "a size of 7 is no power of two"),
        (QueueLayout { size: 2048, ..good }, "a size of 2048"),
        (
            QueueLayout { descriptor_table: GuestAddress(8), ..good },
            "descriptor table at 0x8 is not aligned to 16",
        ),
        (
            QueueLayout { available_ring: GuestAddress(1), ..good },
            "available ring at 0x1 is not aligned to 2",
        ),
        (QueueLayout { used_ring: GuestAddress(2), ..good }, "used ring at 0x2 is not aligned to 4"),
        (
            QueueLayout { descriptor_table: GuestAddress(end - 0x70), ..good },
            "descriptor table at 0x3fff90 is not in",
        ),
        (
            QueueLayout { available_ring: GuestAddress(end - 20), ..good },
            "available ring at 0x3fffec is not in",
        ),
        (QueueLayout { used_ring: GuestAddress(end - 68), ..good }, "used ring at 0x3fffbc is not in"),
        (
            QueueLayout { used_ring: GuestAddress(u64::MAX - 3), ..good },
            "used ring at 0xfffffffffffffffc is not in",
        ),
    ];
    for (layout, reason) in cases {
        let refused = Virtqueue::new(3, driver.resources_at(layout), 0, None);
        let Err(error @ DeviceError::BadLayout { index: 3, .. }) = refused else {
            panic!("accepted: {reason}")
        };
        assert!(error.to_string().contains(reason), "{error} instead of {reason}");
    }
    let last = QueueLayout { used_ring: GuestAddress(end - 72), ..good };
    assert!(Virtqueue::new(0, driver.resources_at(last), 0, None).is_ok());
}

#[test]
fn loops_and_wild_indices_break_the_queue() {
    use QueueError as Error;
    let loops = pop_raw(&[raw(0, 1, NEXT, 1), raw(0, 1, NEXT, 0)], 0);
    assert!(matches!(loops, Err(Error::ChainTooLong { limit: 8 })));
    let wild = pop_raw(&[raw(0, 1, NEXT, 8)], 0);
    assert!(matches!(wild, Err(Error::DescriptorIndex { index: 8, size: 8 })));
    let order = pop_raw(&[raw(0, 1, NEXT | WRITE, 1), raw(0, 1, 0, 0)], 0);
    assert!(matches!(order, Err(Error::ReadAfterWrite)));
    let outside = pop_raw(&[raw(4 << 20, 1, 0, 0)], 0);
    assert!(matches!(outside, Err(Error::NoMemory { length: 1, .. })));
    let wraps = pop_raw(&[raw(u64::MAX, 2, 0, 0)], 0);
    assert!(matches!(wraps, Err(Error::NoMemory { length: 2, .. })));
}

#[test]
fn a_table_of_indirect_descriptors_is_held_to_its_rules() {
    use QueueError as Error;
    let reason = |descriptors: &[RawDescriptor], features| match pop_raw(descriptors, features) {
        Err(Error::IndirectTable { reason }) => reason,
        other => panic!("{other:?}"),
    };
    let features = RING_INDIRECT_DESCRIPTORS;
    assert_eq!(reason(&[raw(0, 16, INDIRECT, 0)], 0), "it was not negotiated");
    assert_eq!(reason(&[raw(0, 0, INDIRECT, 0)], features), "it is empty");
    let odd = "its length is not a multiple of a descriptor's";
    assert_eq!(reason(&[raw(0, 24, INDIRECT, 0)], features), odd);
    let successor = "its descriptor has a successor";
    assert_eq!(reason(&[raw(0, 16, INDIRECT | NEXT, 1)], features), successor);
    // The descriptor table begins at 0: the first descriptor names itself as a table.
    assert_eq!(reason(&[raw(0, 16, INDIRECT, 0)], features), "it is within another");
    // The second descriptor is what the table begins with, and it names itself.
    let table = [raw(16, 16, INDIRECT, 0), raw(0, 1, NEXT, 0)];
    assert!(matches!(pop_raw(&table, features), Err(Error::ChainTooLong { limit: 1024 })));
    let table = [raw(16, 16, INDIRECT, 0), raw(0, 1, NEXT, 1)];
    assert!(matches!(pop_raw(&table, features), Err(Error::DescriptorIndex { index: 1, size: 1 })));
    let outside = pop_raw(&[raw(u64::MAX - 15, 32, INDIRECT, 0)], features);
    assert!(matches!(outside, Err(Error::Memory { .. } | Error::NoMemory { .. })));
}

#[test]
fn a_chain_of_more_than_four_gigabytes_breaks_the_queue() {
    let mut memory = TestMemory::with_regions(&[(0, 1 << 20), (1 << 32, 3 << 30)]);
    let mut driver = GuestQueue::new(&mut memory, 8);
    let mut device = Virtqueue::new(0, driver.resources(), 0, None).unwrap();
    let half = Buffer::readable(1 << 32, 1 << 31);
    driver.add(&[half, half]);
    assert!(matches!(pop(&mut device, &mut Chain::new()), Err(QueueError::TooManyBytes)));
}

#[test]
fn an_available_index_that_runs_away_breaks_the_queue() {
    let (_memory, driver, mut device) = queues(8, 0);
    driver.raw_available_index(9);
    let result = pop(&mut device, &mut Chain::new());
    assert!(matches!(result, Err(QueueError::AvailableIndex { next: 0, available: 9, size: 8 })));
    // Nothing that the driver does later mends it, short of a reset.
    driver.raw_available_index(1);
    assert!(matches!(pop(&mut device, &mut Chain::new()), Err(QueueError::Broken)));
    assert!(matches!(device.complete(&device.memory(), 0, 0), Err(QueueError::Broken)));
    assert!(matches!(device.notify(&device.memory()), Err(QueueError::Broken)));
}

#[test]
fn a_queue_goes_on_across_the_end_of_its_indices() {
    let (mut memory, driver, device) = queues(4, 0);
    drop((driver, device));
    let mut driver = GuestQueue::new(&mut memory, 4);
    driver.start_at(u16::MAX - 1);
    let state = QueueState { next_available: u16::MAX - 1, next_used: u16::MAX - 1 };
    let mut device = Virtqueue::new(0, driver.resources(), 0, Some(state)).unwrap();
    let address = memory.allocate(16);
    let mut chain = Chain::new();
    for _ in 0..10 {
        let head = driver.add(&[Buffer::writable(address, 16)]);
        assert!(pop(&mut device, &mut chain).unwrap());
        device.complete(&device.memory(), chain.head(), 1).unwrap();
        assert_eq!(driver.try_used().unwrap().head, head);
    }
    assert_eq!(device.into_state(), QueueState { next_available: 8, next_used: 8 });
}

#[test]
fn a_chain_that_is_put_back_comes_again() {
    let (mut memory, mut driver, mut device) = queues(4, 0);
    let address = memory.allocate(16);
    let head = driver.add(&[Buffer::writable(address, 16)]);
    let mut chain = Chain::new();
    assert!(pop(&mut device, &mut chain).unwrap());
    device.undo_pop();
    assert!(pop(&mut device, &mut chain).unwrap());
    assert_eq!(chain.head(), head);
    assert!(!pop(&mut device, &mut chain).unwrap());
}

#[test]
fn the_driver_is_interrupted_when_its_flag_allows_it() {
    let (mut memory, mut driver, mut device) = queues(4, 0);
    let address = memory.allocate(16);
    let mut chain = Chain::new();
    let mut answer_one = |driver: &mut GuestQueue, device: &mut Virtqueue| {
        driver.add(&[Buffer::writable(address, 16)]);
        assert!(pop(device, &mut chain).unwrap());
        device.complete(&device.memory(), chain.head(), 1).unwrap();
        device.notify(&device.memory()).unwrap();
        driver.interrupt().queue_count()
    };
    assert_eq!(answer_one(&mut driver, &mut device), 1);
    driver.refuse_interrupts();
    assert_eq!(answer_one(&mut driver, &mut device), 1);
    driver.want_interrupt();
    assert_eq!(answer_one(&mut driver, &mut device), 2);
}

#[test]
fn the_driver_is_interrupted_for_the_entry_that_it_named() {
    let (mut memory, mut driver, mut device) = queues(8, RING_EVENT_INDEX);
    let address = memory.allocate(16);
    let mut chain = Chain::new();
    driver.raw_used_event(2);
    for expected in [0, 0, 1, 1] {
        driver.add(&[Buffer::writable(address, 16)]);
        assert!(pop(&mut device, &mut chain).unwrap());
        device.complete(&device.memory(), chain.head(), 1).unwrap();
        device.notify(&device.memory()).unwrap();
        // Asking again without a completion between is no second interrupt.
        device.notify(&device.memory()).unwrap();
        assert_eq!(driver.interrupt().queue_count(), expected);
    }
}

#[test]
fn a_kick_is_asked_for_only_when_the_device_waits() {
    for features in [0, RING_EVENT_INDEX] {
        let (mut memory, mut driver, mut device) = queues(8, features);
        let address = memory.allocate(16);
        let mut chain = Chain::new();
        device.disable_kicks(&device.memory()).unwrap();
        driver.add(&[Buffer::writable(address, 16)]);
        if features == 0 {
            assert!(!driver.device_wants_kick());
        }
        // What came before kicks were asked for is reported, since no kick follows for it.
        assert!(device.enable_kicks(&device.memory()).unwrap());
        assert!(pop(&mut device, &mut chain).unwrap());
        assert!(!device.enable_kicks(&device.memory()).unwrap());
        driver.add(&[Buffer::writable(address, 16)]);
        assert!(driver.device_wants_kick());
        assert!(device.enable_kicks(&device.memory()).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A driver that keeps the rules gets every chain through, in order, whole, direct or indirect, whatever the
    /// order in which the device is done with them.
    #[test]
    fn chains_arrive_as_they_were_sent(
        chains in prop::collection::vec(
            (prop::collection::vec((0u32..5000, any::<bool>()), 1..6), any::<bool>(), any::<prop::sample::Index>()),
            1..60,
        ),
        event_index: bool,
    ) {
        let features = RING_INDIRECT_DESCRIPTORS | if event_index { RING_EVENT_INDEX } else { 0 };
        let (_memory, mut driver, mut device) = queues(16, features);
        let mut chain = Chain::new();
        let mut open: Vec<u16> = Vec::new();
        for (mut parts, indirect, which) in chains {
            parts.sort_by_key(|&(_, writable)| writable);
            let buffers: Vec<_> = (0u64..)
                .zip(&parts)
                .map(|(at, &(length, writable))| Buffer { address: at * 0x2000, length, writable })
                .collect();
            while driver.free() < buffers.len() {
                let head = open.swap_remove(which.index(open.len()));
                device.complete(&device.memory(), head, u32::from(head)).unwrap();
                let completion = driver.try_used().unwrap();
                prop_assert_eq!((completion.head, completion.written), (head, u32::from(head)));
            }
            let head = if indirect { driver.add_indirect(&buffers) } else { driver.add(&buffers) };
            prop_assert!(pop(&mut device, &mut chain).unwrap());
            open.push(head);
            prop_assert_eq!(chain.head(), head);
            prop_assert_eq!(chain.segment_count(), buffers.len());
            for writable in [false, true] {
                let sum = |writable| buffers.iter().filter(|b| b.writable == writable).map(|b| b.length).sum::<u32>();
                let length = if writable { chain.writable_length() } else { chain.readable_length() };
                prop_assert_eq!(length, sum(writable));
            }
            prop_assert!(!pop(&mut device, &mut chain).unwrap());
        }
    }

    /// Whatever lies in the rings and tables, the device ends with a chain within memory, nothing, or an error.
    #[test]
    fn garbage_is_an_error_and_never_a_hang(
        table in prop::collection::vec((0u64..0x42_0000, 0u32..0x1_0000, 0u16..8, 0u16..20), 16),
        ring in prop::collection::vec(0u16..20, 16),
        index in 0u16..20,
    ) {
        let (_memory, driver, mut device) = queues(16, RING_INDIRECT_DESCRIPTORS);
        for (at, &(address, length, flags, next)) in (0..).zip(&table) {
            driver.raw_descriptor(at, RawDescriptor { address, length, flags, next });
        }
        (0..).zip(&ring).for_each(|(at, &head)| driver.raw_available_entry(at, head));
        driver.raw_available_index(index);
        let mut chain = Chain::new();
        let mut popped = 0;
        while let Ok(true) = pop(&mut device, &mut chain) {
            popped += 1;
            prop_assert!(chain.segment_count() <= 1024 + 16);
            let memory = device.memory();
            let mut reader = chain.reader(&memory);
            let mut bytes = vec![0; chain.readable_length() as usize];
            reader.read(&mut bytes).unwrap();
            chain.writer(&memory).fill_with_zeroes().unwrap();
        }
        prop_assert!(popped <= index);
    }

    /// A reader gives the same bytes however they are cut, taken apart and asked for.
    #[test]
    fn the_halves_of_a_chain_are_streams_of_bytes(
        lengths in prop::collection::vec(0u32..50, 1..8),
        asks in prop::collection::vec(0u32..60, 1..12),
    ) {
        let (mut memory, mut driver, mut device) = queues(16, 0);
        let total: u32 = lengths.iter().sum();
        let expected: Vec<u8> = (0..total).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut rest = expected.as_slice();
        let mut buffers = Vec::new();
        for writable in [false, true] {
            for &length in &lengths {
                let address = memory.allocate(64);
                if !writable {
                    let (part, left) = rest.split_at(length as usize);
                    memory.write(address, part);
                    rest = left;
                }
                buffers.push(Buffer { address, length, writable });
            }
        }
        driver.add(&buffers);
        let mut chain = Chain::new();
        prop_assert!(pop(&mut device, &mut chain).unwrap());
        let regions = device.memory();
        let (mut reader, mut writer) = (chain.reader(&regions), chain.writer(&regions));
        let mut got = Vec::new();
        for (turn, ask) in asks.into_iter().enumerate() {
            let mut bytes = vec![0; ask as usize];
            let left = reader.remaining();
            let result = if turn % 2 == 0 {
                reader.read(&mut bytes)
            } else {
                reader.take(ask).and_then(|mut part| part.read(&mut bytes))
            };
            prop_assert_eq!(result.is_ok(), ask <= left);
            if result.is_ok() {
                prop_assert_eq!(reader.remaining(), left - ask);
                writer.write(&bytes).unwrap();
                got.extend_from_slice(&bytes);
            }
        }
        prop_assert_eq!(&got, &expected[..got.len()]);
        let written: Vec<u8> = buffers
            .iter()
            .filter(|buffer| buffer.writable)
            .flat_map(|buffer| memory.read(buffer.address, buffer.length as usize))
            .collect();
        prop_assert_eq!(&written[..got.len()], &got[..]);
        prop_assert!(written[got.len()..].iter().all(|&byte| byte == 0));
    }
}
