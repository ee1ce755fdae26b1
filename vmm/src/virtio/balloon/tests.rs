//! The device seen from the driver.

use proptest::prelude::*;

use super::request::{MAXIMUM_PAGES, PAGE_SIZE};
use super::{Balloon, DEFLATE, INFLATE, QUEUE_SIZES, REPORT, REPORT_COMPACT};
use crate::virtio::testing::{Buffer, GuestQueue, MmioDriver, TestMemory, register};
use crate::virtio::{DeviceError, VirtioDevice};

const MEMORY: usize = 8 << 20;
/// Pages from here on are the guest's own.
const FIRST: u32 = 1024;
const PAGES: u32 = 64;
/// What a page takes, and where the guest's own begin.
const PAGE: usize = PAGE_SIZE as usize;
const START: u64 = FIRST as u64 * PAGE_SIZE as u64;

struct Driver {
    memory: TestMemory,
    queue: GuestQueue,
    device: Balloon,
}

impl Driver {
    fn new(index: u16) -> Self {
        let mut memory = TestMemory::new(MEMORY);
        let queue = GuestQueue::with_table_room(&mut memory, 64, 1);
        let mut device = Balloon::new();
        device.start_queue(index, queue.resources(), 0, None).unwrap();
        memory.write(START, &vec![7; PAGES as usize * PAGE]);
        Self { memory, queue, device }
    }

    /// Names pages as the inflate and deflate queues take them, and waits for the answer.
    fn name(&mut self, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let address = self.memory.allocate_bytes(&bytes);
        self.send(&[Buffer::readable(address, u32::try_from(bytes.len()).unwrap())]);
    }

    fn send(&mut self, buffers: &[Buffer]) {
        self.queue.add(buffers);
        self.queue.kick();
        assert_eq!(self.queue.wait_used().written, 0);
    }

    /// Which of the pages still have what was written there.
    fn kept(&self) -> Vec<bool> {
        let bytes = self.memory.read(START, PAGES as usize * PAGE);
        let kept = |page: &[u8]| {
            assert!(page.iter().all(|&byte| byte == page[0]), "a part of a page");
            page[0] == 7
        };
        bytes.chunks(PAGE).map(kept).collect()
    }

    /// Pages by number are given back, and nothing else, as far as the host's pages are not larger.
    fn expect_gone(&self, gone: impl Fn(u32) -> bool) {
        let unit = u32::try_from(rustix::param::page_size() / PAGE).unwrap();
        let is_gone = |page: u32| {
            let first = page / unit * unit;
            (first..first + unit).all(&gone)
        };
        for (page, kept) in (FIRST..).zip(self.kept()) {
            assert_eq!(kept, !is_gone(page), "page {page}");
        }
    }
}

#[test]
fn the_pages_of_an_inflated_balloon_are_given_back_and_no_others() {
    let mut driver = Driver::new(INFLATE);
    let pages: Vec<u32> = [(FIRST..FIRST + 8).rev().collect(), vec![FIRST + 20, FIRST + 63]].concat();
    driver.name(&pages);
    driver.expect_gone(|page| pages.contains(&page));
    // The guest takes one back by touching it.
    driver.memory.write(START, &[1, 2, 3]);
    assert_eq!(driver.memory.read(START, 4), [1, 2, 3, 0]);
}

#[test]
fn what_is_no_page_of_the_guest_is_left_out() {
    let mut driver = Driver::new(INFLATE);
    driver.name(&[u32::MAX, u32::MAX - 1, 1 << 20, FIRST, FIRST, u32::MAX]);
    let rest = driver.memory.allocate_bytes(&[0, 4, 0, 0, 5, 4]);
    driver.send(&[Buffer::readable(rest, 6)]);
    driver.send(&[Buffer::readable(rest, 3)]);
    driver.send(&[Buffer::writable(rest, 6)]);
    driver.expect_gone(|page| page == FIRST);
}

#[test]
fn a_request_for_more_pages_than_a_request_may_name_is_cut() {
    let mut driver = Driver::new(INFLATE);
    let mut pages = vec![FIRST; MAXIMUM_PAGES - 1];
    pages.extend(FIRST..FIRST + 16);
    driver.name(&pages);
    driver.expect_gone(|page| page == FIRST);
    // As much as a chain may name, in the guest's own memory.
    let all = [Buffer::readable(0, u32::try_from(MEMORY).unwrap()); 60];
    driver.send(&all);
}

#[test]
fn a_deflated_balloon_leaves_the_pages_alone() {
    let mut driver = Driver::new(DEFLATE);
    driver.name(&[FIRST, FIRST + 1]);
    driver.expect_gone(|_| false);
}

#[test]
fn free_pages_that_are_reported_are_given_back_whole() {
    for index in [REPORT_COMPACT, REPORT] {
        let mut driver = Driver::new(index);
        let run = 16 * PAGE_SIZE;
        // A part that is to be read is no report.
        driver.send(&[
            Buffer::readable(START + 48 * PAGE as u64, run),
            Buffer::writable(START, run),
            Buffer::writable(START + 32 * PAGE as u64, run),
        ]);
        let is_reported = |page| (0..16).contains(&(page - FIRST)) || (32..48).contains(&(page - FIRST));
        driver.expect_gone(is_reported);
    }
}

#[test]
fn the_host_asks_by_the_configuration_and_the_driver_answers_there() {
    let mut driver = Driver::new(INFLATE);
    let control = driver.device.control();
    let config = |device: &Balloon| {
        let mut config = [0xaa; 12];
        device.read_config(0, &mut config);
        config
    };
    control.set_target((5 << 20) + 1).unwrap();
    driver.queue.interrupt().wait_for_config();
    assert_eq!(config(&driver.device), [0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    driver.device.write_config(0, &[9, 9, 9, 9, 3, 1]);
    driver.device.write_config(u64::MAX, &[9, 9]);
    driver.device.write_config(7, &[0, 9, 9]);
    assert_eq!(control.actual(), 0x103 * PAGE as u64);
    assert_eq!(config(&driver.device)[..8], [0, 5, 0, 0, 3, 1, 0, 0]);

    // Without a driver nobody is told; the next one finds what is wanted.
    driver.device.stop_queue(INFLATE).unwrap();
    driver.device.reset();
    assert_eq!(control.actual(), 0);
    control.set_target(u64::MAX).unwrap();
    assert_eq!(config(&driver.device)[..4], [0xff; 4]);
    drop(driver);
    control.set_target(0).unwrap();
}

#[test]
fn there_are_four_queues_and_each_runs_once() {
    let mut driver = Driver::new(INFLATE);
    let again = driver.device.start_queue(INFLATE, driver.queue.resources(), 0, None);
    assert!(matches!(again, Err(DeviceError::QueueRunning { index: INFLATE })));
    for index in [3, 5, u16::MAX] {
        let none = driver.device.start_queue(index, driver.queue.resources(), 0, None);
        assert!(matches!(none, Err(DeviceError::NoSuchQueue { .. })));
        assert!(driver.device.stop_queue(index).is_none());
    }
}

#[test]
fn a_driver_finds_its_queues_wherever_it_looks_for_them() {
    let mut memory = TestMemory::new(MEMORY);
    let driver = MmioDriver::new(Balloon::new(), &memory);
    for report in [REPORT_COMPACT, REPORT] {
        driver.negotiate(0);
        for (index, size) in (0..).zip(QUEUE_SIZES) {
            driver.write(register::QUEUE_SEL, index);
            assert_eq!(driver.read(register::QUEUE_NUM_MAX), u32::from(size));
        }
        let mut queues = [INFLATE, DEFLATE, report].map(|index| {
            let queue = GuestQueue::with_table_room(&mut memory, 32, 1);
            driver.set_queue(index.into(), &queue);
            queue
        });
        driver.driver_ok();
        let page = memory.allocate(3 * PAGE);
        queues[2].add(&[Buffer::writable(page, 3 * PAGE_SIZE)]);
        driver.notify(report.into());
        assert_eq!(driver.wait_used(&mut queues[2]).written, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// However the driver names pages, those are gone and no others.
    #[test]
    fn exactly_the_named_pages_are_given_back(requests in prop::collection::vec(
        prop::collection::vec(FIRST - 4..FIRST + PAGES + 4, 0..40), 1..6,
    )) {
        let mut driver = Driver::new(INFLATE);
        let mut gone = Vec::new();
        for request in &requests {
            driver.name(request);
            gone.extend_from_slice(request);
        }
        // Of a larger page of the host's, all must be named by one request.
        if rustix::param::page_size() == PAGE {
            driver.expect_gone(|page| gone.contains(&page));
        }
    }
}
