//! The device seen from the driver.

use std::sync::Arc;

use proptest::prelude::*;

use super::Block;
use super::state::feature;
use crate::virtio::testing::{Buffer, GuestQueue, MemoryDisk, TestMemory};
use crate::virtio::{DeviceError, QueueLayout, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS, VirtioDevice};

const SECTORS: usize = 64;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// A driver of a disk with one queue.
struct Driver {
    memory: TestMemory,
    queue: GuestQueue,
    device: Block,
    disk: Arc<MemoryDisk>,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u8,
    written: u32,
    data: Vec<u8>,
}

fn pattern() -> Vec<u8> {
    (0..SECTORS * 512).map(|at| u8::try_from((at / 512 * 7 + at) % 251).unwrap()).collect()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

impl Driver {
    fn new(disk: MemoryDisk) -> Self {
        Self::with_features(disk, feature::FLUSH | RING_INDIRECT_DESCRIPTORS)
    }

    fn with_features(disk: MemoryDisk, features: u64) -> Self {
        let mut memory = TestMemory::new(8 << 20);
        let mut queue = GuestQueue::new(&mut memory, 64);
        let disk = Arc::new(disk);
        let mut device = Block::new(disk.clone(), "root", 1);
        if features & RING_EVENT_INDEX != 0 {
            queue.use_event_index();
        }
        device.start_queue(0, queue.resources(), features, None).unwrap();
        Self { memory, queue, device, disk }
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[u8], answer: u32) -> Answer {
        self.split_request(kind, sector, data, answer, &[], false)
    }

    /// Sends a request whose two halves are cut at `cuts`.
    fn split_request(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[u8],
        answer: u32,
        cuts: &[u32],
        indirect: bool,
    ) -> Answer {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let readable = self.memory.allocate_bytes(&[&header, data].concat());
        let writable = self.memory.allocate_bytes(&vec![0xaa; answer as usize + 1]);
        let mut buffers = cut(readable, u32::try_from(16 + data.len()).unwrap(), cuts, false);
        buffers.extend(cut(writable, answer + 1, cuts, true));
        if indirect {
            self.queue.add_indirect(&buffers);
        } else {
            self.queue.add(&buffers);
        }
        self.queue.kick();
        let written = self.queue.wait_used().written;
        let mut data = self.memory.read(writable, answer as usize + 1);
        Answer { status: data.pop().unwrap(), written, data }
    }
}

/// Cuts a piece of memory at each of the places that lie within it.
fn cut(address: u64, length: u32, cuts: &[u32], writable: bool) -> Vec<Buffer> {
    let mut places: Vec<u32> = cuts.iter().copied().filter(|&place| place < length).collect();
    places.extend([0, length]);
    places.sort_unstable();
    let piece =
        |pair: &[u32]| Buffer { address: address + u64::from(pair[0]), length: pair[1] - pair[0], writable };
    places.windows(2).map(piece).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let mut driver = Driver::new(MemoryDisk::new(vec![0; SECTORS * 512]));
    let data = pattern()[..4096].to_vec();
    assert_eq!(driver.request(OUT, 3, &data, 0), Answer { status: OK, written: 1, data: vec![] });
    assert_eq!(driver.request(IN, 3, &[], 4096), Answer { status: OK, written: 4097, data: data.clone() });
    assert_eq!(driver.disk.bytes()[3 * 512..][..4096], data);
    assert_eq!(driver.request(FLUSH, 0, &[], 0).status, OK);
    assert_eq!(driver.disk.flushes(), 1);
}

#[test]
fn a_disk_has_a_name_of_twenty_bytes() {
    let mut driver = Driver::new(MemoryDisk::new(pattern()));
    let mut name = b"root".to_vec();
    name.resize(20, 0);
    assert_eq!(driver.request(GET_ID, 0, &[], 20), Answer { status: OK, written: 21, data: name });
}

#[test]
fn discard_and_write_zeroes_reach_each_range() {
    let mut driver = Driver::new(MemoryDisk::new(pattern()));
    let ranges = [range(1, 2, 0), range(10, 1, 1), range(20, 0, 0)].concat();
    assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges, 0).status, OK);
    assert_eq!(driver.request(DISCARD, 0, &range(30, 1, 0), 0).status, OK);
    let mut expected = pattern();
    expected[512..3 * 512].fill(0);
    expected[10 * 512..11 * 512].fill(0);
    expected[30 * 512..31 * 512].fill(0xdd);
    assert_eq!(driver.disk.bytes(), expected);
}

#[test]
fn requests_out_of_bounds_are_refused_and_change_nothing() {
    let mut driver = Driver::new(MemoryDisk::new(pattern()));
    let last = SECTORS as u64;
    let refused = |status| Answer { status, written: 1, data: vec![] };
    let long = vec![1; 1024];
    for (kind, sector, data, status) in [
        (OUT, last - 1, &long[..], IO_ERROR),
        (OUT, last, &long[..512], IO_ERROR),
        (OUT, u64::MAX, &long[..512], IO_ERROR),
        (OUT, 0, &long[..511], IO_ERROR),
        (DISCARD, 0, &range(last - 1, 2, 0), IO_ERROR),
        (DISCARD, 0, &range(u64::MAX, 1, 0), IO_ERROR),
        (DISCARD, 0, &range(0, u32::MAX, 0), IO_ERROR),
        (DISCARD, 0, &range(0, 1, 1), UNSUPPORTED),
        (WRITE_ZEROES, 0, &range(0, 1, 2), UNSUPPORTED),
        (WRITE_ZEROES, 0, &range(0, 1, 0)[..15], IO_ERROR),
        (WRITE_ZEROES, 0, &[], IO_ERROR),
        (WRITE_ZEROES, 0, &range(0, 1, 0).repeat(65), IO_ERROR),
        (14, 0, &range(0, 1, 0), UNSUPPORTED),
        (0xffff_ffff, 0, &[], UNSUPPORTED),
    ] {
        assert_eq!(driver.request(kind, sector, data, 0), refused(status), "request {kind} at {sector}");
    }
    assert_eq!(driver.request(IN, last - 1, &[], 1024).status, IO_ERROR);
    assert_eq!(driver.request(IN, 0, &[], 513).status, IO_ERROR);
    // A request with ranges of which one is wrong does nothing with the others.
    let ranges = [range(0, 1, 0), range(last, 1, 0)].concat();
    assert_eq!(driver.request(WRITE_ZEROES, 0, &ranges, 0).status, IO_ERROR);
    assert_eq!(driver.disk.bytes(), pattern());
}

#[test]
fn a_request_without_header_or_status_is_answered_as_far_as_it_can_be() {
    let mut driver = Driver::new(MemoryDisk::new(pattern()));
    let status = driver.memory.allocate_bytes(&[0xaa]);
    let header = driver.memory.allocate_bytes(&[0; 16]);
    driver.queue.add(&[Buffer::readable(header, 15), Buffer::writable(status, 1)]);
    driver.queue.kick();
    assert_eq!(driver.queue.wait_used().written, 1);
    assert_eq!(driver.memory.read(status, 1), [IO_ERROR]);
    driver.queue.add(&[Buffer::readable(header, 16)]);
    driver.queue.kick();
    assert_eq!(driver.queue.wait_used().written, 0);
}

#[test]
fn a_disk_that_fails_is_an_io_error_for_the_guest_and_leaks_nothing() {
    let mut driver = Driver::new(MemoryDisk::new(pattern()));
    driver.disk.set_failing(true);
    assert_eq!(
        driver.request(IN, 0, &[], 512),
        Answer { status: IO_ERROR, written: 513, data: vec![0; 512] }
    );
    for (kind, data) in [(OUT, vec![1; 512]), (FLUSH, vec![]), (WRITE_ZEROES, range(0, 1, 0))] {
        assert_eq!(driver.request(kind, 0, &data, 0).status, IO_ERROR);
    }
    driver.disk.set_failing(false);
    assert_eq!(driver.request(IN, 0, &[], 512).data, pattern()[..512]);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let mut driver = Driver::new(MemoryDisk::read_only(pattern()));
    let features = driver.device.features();
    assert_eq!(features & feature::READ_ONLY, feature::READ_ONLY);
    assert_eq!(features & (feature::DISCARD | feature::WRITE_ZEROES | feature::CONFIG_WRITEBACK), 0);
    for (kind, data) in [(OUT, vec![1; 512]), (DISCARD, range(0, 1, 0)), (WRITE_ZEROES, range(0, 1, 0))] {
        assert_eq!(driver.request(kind, 0, &data, 0).status, IO_ERROR);
    }
    assert_eq!(driver.request(IN, 1, &[], 512).data, pattern()[512..1024]);
}

#[test]
fn a_write_is_flushed_at_once_where_the_driver_does_not_flush() {
    // A driver that does not know of flushes.
    let mut driver = Driver::with_features(MemoryDisk::new(pattern()), 0);
    driver.request(OUT, 0, &[1; 512], 0);
    assert_eq!(driver.disk.flushes(), 1);

    // A driver that chose the mode, and then the other.
    let features = feature::FLUSH | feature::CONFIG_WRITEBACK;
    let mut driver = Driver::with_features(MemoryDisk::new(pattern()), features);
    driver.request(OUT, 0, &[1; 512], 0);
    assert_eq!(driver.disk.flushes(), 0);
    driver.device.write_config(32, &[0]);
    driver.request(OUT, 0, &[1; 512], 0);
    assert_eq!(driver.disk.flushes(), 1);
    driver.request(WRITE_ZEROES, 0, &range(0, 1, 0), 0);
    assert_eq!(driver.disk.flushes(), 2);
    driver.device.write_config(31, &[0, 1, 0]);
    driver.request(OUT, 0, &[1; 512], 0);
    assert_eq!(driver.disk.flushes(), 2);
}

#[test]
fn the_configuration_tells_size_and_limits() {
    let device =
        Block::new(Arc::new(MemoryDisk::new(vec![0; SECTORS * 512 + 100])), "a name that is too long", 4);
    let mut config = [0xff; 64];
    device.read_config(0, &mut config);
    let field = |at: usize, length: usize| {
        config[at..at + length].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
    };
    assert_eq!(field(0, 8), SECTORS as u64);
    assert_eq!((field(12, 4), field(20, 4), field(32, 1), field(34, 2)), (254, 512, 1, 4));
    assert_eq!((field(36, 4), field(40, 4), field(44, 4)), (1 << 21, 64, 8));
    assert_eq!((field(48, 4), field(52, 4), field(56, 1)), (1 << 18, 64, 1));
    assert_eq!(config[60..], [0; 4]);
    assert_eq!(device.queue_sizes(), [256; 4]);
    assert_ne!(device.features() & feature::MULTIQUEUE, 0);
    let mut beyond = [0xff; 4];
    device.read_config(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 4]);
}

#[test]
fn queues_work_side_by_side_and_stop_one_by_one() {
    let mut memory = TestMemory::new(8 << 20);
    let disk = Arc::new(MemoryDisk::new(vec![0; SECTORS * 512]));
    let mut device = Block::new(disk.clone(), "", 3);
    let mut queues: Vec<_> = (0..3).map(|_| GuestQueue::new(&mut memory, 16)).collect();
    for (index, queue) in (0..).zip(&queues) {
        device.start_queue(index, queue.resources(), feature::FLUSH, None).unwrap();
    }
    let again = device.start_queue(1, queues[1].resources(), 0, None);
    assert!(matches!(again, Err(DeviceError::QueueRunning { index: 1 })));
    let none = device.start_queue(3, queues[1].resources(), 0, None);
    assert!(matches!(none, Err(DeviceError::NoSuchQueue { index: 3 })));
    for (sector, queue) in (0u64..).zip(&mut queues) {
        let header = [&OUT.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let header = memory.allocate_bytes(&header);
        let data = memory.allocate_bytes(&[u8::try_from(sector + 1).unwrap(); 512]);
        let status = memory.allocate(1);
        let buffers =
            [Buffer::readable(header, 16), Buffer::readable(data, 512), Buffer::writable(status, 1)];
        queue.add(&buffers);
        queue.kick();
    }
    for (index, queue) in (0..).zip(&mut queues) {
        queue.wait_used();
        assert_eq!(device.stop_queue(index).unwrap().next_used, 1);
        assert!(device.stop_queue(index).is_none());
    }
    assert!(device.stop_queue(3).is_none());
    for sector in 0..3 {
        assert_eq!(usize::from(disk.bytes()[sector * 512]), sector + 1);
    }
}

#[test]
fn a_queue_larger_than_any_is_refused() {
    let mut memory = TestMemory::new(1 << 20);
    let queue = GuestQueue::new(&mut memory, 4);
    let mut device = Block::new(Arc::new(MemoryDisk::new(vec![0; 512])), "", 1);
    let layout = QueueLayout { size: 2048, ..queue.layout() };
    let refused = device.start_queue(0, queue.resources_at(layout), 0, None);
    assert!(matches!(refused, Err(DeviceError::BadLayout { index: 0, .. })));
}

#[derive(Clone, Debug)]
enum Step {
    Read { sector: u64, sectors: u32 },
    Write { sector: u64, sectors: usize, byte: u8 },
    WriteZeroes { sector: u64, sectors: u32 },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sector = 0..SECTORS as u64 + 2;
    let step = prop_oneof![
        4 => (sector.clone(), 0u32..8).prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        4 => (sector.clone(), 0usize..8, 1u8..)
            .prop_map(|(sector, sectors, byte)| Step::Write { sector, sectors, byte }),
        2 => (sector, 0u32..8).prop_map(|(sector, sectors)| Step::WriteZeroes { sector, sectors }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked, however it is cut into descriptors, the disk is what a plain array of bytes would be.
    #[test]
    fn a_disk_is_an_array_of_sectors(
        steps in steps(),
        cuts in prop::collection::vec(0u32..4200, 0..12),
        indirect: bool,
        event_index: bool,
    ) {
        let event_index = if event_index { RING_EVENT_INDEX } else { 0 };
        let features = feature::FLUSH | RING_INDIRECT_DESCRIPTORS | event_index;
        let mut driver = Driver::with_features(MemoryDisk::new(pattern()), features);
        let mut model = pattern();
        for step in steps {
            let part = |sector: u64, sectors: usize| {
                let start = usize::try_from(sector).unwrap() * 512;
                Some(start..start + sectors * 512).filter(|part| part.end <= SECTORS * 512)
            };
            match step {
                Step::Read { sector, sectors } => {
                    let answer = driver.split_request(IN, sector, &[], sectors * 512, &cuts, indirect);
                    let part = part(sector, sectors as usize);
                    let expected = part.map_or(vec![0; sectors as usize * 512], |part| model[part].to_vec());
                    prop_assert_eq!(answer.data, expected);
                    prop_assert_eq!(answer.written, sectors * 512 + 1);
                }
                Step::Write { sector, sectors, byte } => {
                    let data = vec![byte; sectors * 512];
                    let answer = driver.split_request(OUT, sector, &data, 0, &cuts, indirect);
                    let part = part(sector, sectors);
                    prop_assert_eq!(answer.status, if part.is_some() { OK } else { IO_ERROR });
                    part.into_iter().for_each(|part| model[part].fill(byte));
                }
                Step::WriteZeroes { sector, sectors } => {
                    let data = range(sector, sectors, 1);
                    let answer = driver.split_request(WRITE_ZEROES, 0, &data, 0, &cuts, indirect);
                    let part = part(sector, sectors as usize);
                    prop_assert_eq!(answer.status, if part.is_some() { OK } else { IO_ERROR });
                    part.into_iter().for_each(|part| model[part].fill(0));
                }
                Step::Restart => {
                    let state = driver.device.stop_queue(0);
                    driver.device.start_queue(0, driver.queue.resources(), features, state).unwrap();
                }
            }
        }
        prop_assert_eq!(driver.disk.bytes(), model);
    }
}

/// A device on a disk that is kept by the test, too.
fn live_driver(disk: Arc<dyn vmm_disk::DiskImage>) -> (TestMemory, GuestQueue, Block) {
    let mut memory = TestMemory::new(32 << 20);
    let queue = GuestQueue::new(&mut memory, 64);
    let mut device = Block::new(disk, "root", 1);
    device.start_queue(0, queue.resources(), feature::FLUSH, None).unwrap();
    (memory, queue, device)
}

#[test]
fn a_driver_sees_nothing_of_a_disk_that_gets_another_top_layer() {
    use vmm_disk::testing::MemoryStorage;
    use vmm_disk::{Format, Layer, LiveDisk, Storage, open_chain_layers, qcow2::Layout};

    const SIZE: u64 = 1 << 20;
    let empty = || {
        let storage = Arc::new(MemoryStorage::default());
        Layout::new(SIZE).write(&*storage).unwrap();
        storage
    };
    let layer = |storage: &Arc<MemoryStorage>| {
        let storage: Arc<dyn Storage> = storage.clone();
        Layer { storage, path: "layer".into(), format: Format::Qcow2 }
    };
    let (old, new) = (empty(), empty());
    let disk = Arc::new(LiveDisk::open_layers(vec![layer(&old)]).unwrap());
    let (mut memory, mut queue, mut device) = live_driver(disk.clone());
    // Given writes before the switch, others that are under way meanwhile, and some after it.
    let mut write = |queue: &mut GuestQueue, value: u8| {
        let sector = u64::from(value);
        let header = [&OUT.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let readable = memory.allocate_bytes(&[&header[..], &[value; 512]].concat());
        let status = memory.allocate_bytes(&[0xaa]);
        queue.add(&[
            Buffer { address: readable, length: 16 + 512, writable: false },
            Buffer { address: status, length: 1, writable: true },
        ]);
        queue.kick();
        status
    };
    let mut statuses = vec![write(&mut queue, 1)];
    queue.wait_used();
    statuses.extend((2..30).map(|value| write(&mut queue, value)));
    let again: Arc<dyn Storage> = old.clone();
    disk.switch(layer(&new), || Ok(again), &mut || Ok(())).unwrap();
    for _ in 2..30 {
        queue.wait_used();
    }
    statuses.push(write(&mut queue, 30));
    queue.wait_used();
    device.stop_queue(0);
    drop((device, disk));
    assert!(statuses.into_iter().all(|status| memory.read(status, 1) == [OK]));
    // Then each is where it belongs, whole.
    let sectors = |layers: Vec<Layer>| {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        let disk = open_chain_layers(layers, true).unwrap();
        disk.read(&mut [std::io::IoSliceMut::new(&mut bytes)], 0).unwrap();
        bytes.chunks(512).take(31).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let (before, after) = (sectors(vec![layer(&old)]), sectors(vec![layer(&old), layer(&new)]));
    for value in 1..=30_u8 {
        let (before, after) = (&before[usize::from(value)], &after[usize::from(value)]);
        assert_eq!(*after, vec![value; 512]);
        assert!(*before == vec![value; 512] || *before == vec![0; 512]);
    }
    assert_eq!((before[1][0], before[30][0]), (1, 0));
}
