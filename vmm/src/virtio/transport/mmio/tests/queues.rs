//! How queues are described, started, notified and stopped.

use std::sync::atomic::Ordering;

use super::{COMMON, FEATURE, recorder, running_recorder, start_of};
use crate::virtio::testing::{GuestQueue, MmioDriver, register, status};

/// What tells the driver that its device gave up.
fn expect_needs_reset(driver: &MmioDriver) {
    assert_eq!(driver.wait_for_interrupt(), 2);
    assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn queues_start_when_the_driver_is_ready_and_only_those_that_are() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 4);
    driver.probe(0);
    driver.set_queue(1, &queue);
    assert_eq!(driver.read(register::QUEUE_READY), 1);
    assert_eq!(record.take(), ["reset"]);
    driver.driver_ok();
    assert_eq!(record.take(), [start_of(1, COMMON | FEATURE, &queue)]);
    drop(driver);
    assert_eq!(record.take(), ["stop 1"]);
}

#[test]
fn an_address_has_two_halves() {
    let (record, driver, _memory) = recorder();
    driver.probe(0);
    driver.write(register::QUEUE_NUM, 16);
    let addresses = [0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3210, 0x0f1e_2d3c_4b5a_6978];
    let places = [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW];
    for (place, address) in places.into_iter().zip(addresses) {
        driver.write_address(place, u64::MAX);
        driver.write_address(place, address);
    }
    driver.write(register::QUEUE_READY, 1);
    driver.driver_ok();
    let features = COMMON | FEATURE;
    assert_eq!(record.take()[1], format!("start 0 features {features:#x} size 16 {addresses:x?}"));
}

#[test]
fn no_queue_is_ready_before_the_features_are_settled() {
    let (_record, driver, _memory) = recorder();
    driver.add_status(status::ACKNOWLEDGE | status::DRIVER);
    driver.write(register::QUEUE_READY, 1);
    assert_eq!(driver.read(register::QUEUE_READY), 0);
}

#[test]
fn a_queue_that_is_ready_stays_where_it_is() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    driver.probe(0);
    driver.set_queue(0, &queue);
    driver.write(register::QUEUE_NUM, 8);
    for place in [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW] {
        driver.write_address(place, 0x5000);
    }
    for value in [2, 3, u32::MAX, 1] {
        driver.write(register::QUEUE_READY, value);
    }
    driver.driver_ok();
    assert_eq!(record.take()[1..], [start_of(0, COMMON | FEATURE, &queue)]);
}

#[test]
fn a_queue_that_is_made_ready_late_starts_at_once_and_one_that_is_taken_back_stops() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 8);
    driver.probe(0);
    driver.driver_ok();
    record.take();
    for _ in 0..2 {
        driver.set_queue(1, &queue);
        assert_eq!(record.take(), [start_of(1, COMMON | FEATURE, &queue)]);
        driver.write(register::QUEUE_READY, 0);
        assert_eq!(driver.read(register::QUEUE_READY), 0);
        assert_eq!(record.take(), ["stop 1"]);
        driver.write(register::QUEUE_READY, 0);
        assert!(record.take().is_empty());
    }
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_takes_nothing() {
    let (record, driver, _memory) = recorder();
    driver.probe(0);
    for index in [2, 3, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] {
        driver.write(register::QUEUE_SEL, index);
        assert_eq!(driver.read(register::QUEUE_NUM_MAX), 0);
        driver.write(register::QUEUE_NUM, 8);
        driver.write_address(register::QUEUE_DESC_LOW, 0x1000);
        driver.write(register::QUEUE_READY, 1);
        assert_eq!(driver.read(register::QUEUE_READY), 0);
        driver.notify(index);
    }
    driver.driver_ok();
    assert_eq!(record.take(), ["reset"]);
    assert!(driver.transport().kicks().iter().all(|kick| !kick.clear().unwrap()));
}

#[test]
fn a_queue_that_is_larger_than_offered_has_no_size() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 8);
    for size in [16, 0x1_0008, u32::MAX] {
        driver.negotiate(0);
        driver.set_queue(1, &queue);
        driver.write(register::QUEUE_READY, 0);
        driver.write(register::QUEUE_NUM, size);
        driver.write(register::QUEUE_READY, 1);
        driver.driver_ok();
        assert!(record.take()[1].contains("size 0 "), "{size:#x}");
        driver.reset();
        record.take();
    }
}

#[test]
fn a_queue_that_cannot_start_makes_the_device_ask_for_a_reset() {
    let (record, driver, mut memory) = recorder();
    let queues = [16, 8].map(|size| GuestQueue::new(&mut memory, size));
    record.fails_to_start.store(true, Ordering::SeqCst);
    driver.probe(0);
    driver.set_queue(0, &queues[0]);
    driver.driver_ok();
    expect_needs_reset(&driver);
    // It stays so whatever the driver writes, and a queue that comes late fails as well.
    driver.write(register::STATUS, 0xf);
    driver.set_queue(1, &queues[1]);
    expect_needs_reset(&driver);

    record.fails_to_start.store(false, Ordering::SeqCst);
    record.take();
    driver.negotiate(0);
    assert_eq!(record.take(), ["reset"], "no queue ran");
    driver.set_queue(0, &queues[0]);
    driver.driver_ok();
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn a_queue_that_breaks_in_its_start_is_told_as_well() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    record.breaks_at_start.store(true, Ordering::SeqCst);
    driver.probe(0);
    driver.set_queue(0, &queue);
    driver.driver_ok();
    expect_needs_reset(&driver);
}

#[test]
fn a_notification_raises_the_kick_of_its_queue_and_no_other() {
    let (_record, driver, _queue) = running_recorder();
    let raised =
        || -> Vec<bool> { driver.transport().kicks().iter().map(|kick| kick.clear().unwrap()).collect() };
    assert_eq!(raised(), [false, false]);
    driver.notify(1);
    assert_eq!(raised(), [false, true]);
    driver.notify(0);
    driver.notify(0);
    assert_eq!(raised(), [true, false]);
}

#[test]
fn the_kicks_stay_the_same_over_resets() {
    let (record, driver, queue) = running_recorder();
    for _ in 0..3 {
        driver.negotiate(0);
        driver.set_queue(0, &queue);
        driver.driver_ok();
    }
    // What the hypervisor was given at the beginning still reaches the queue of today.
    let kicks = std::mem::take(&mut *record.kicks.lock().unwrap());
    assert_eq!(kicks.len(), 4);
    for kick in kicks {
        driver.transport().kicks()[0].notify().unwrap();
        assert!(kick.clear().unwrap());
    }
}

#[test]
fn a_notification_that_comes_before_the_queue_runs_is_kept() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    driver.probe(0);
    driver.set_queue(0, &queue);
    driver.notify(0);
    driver.driver_ok();
    assert!(record.kicks.lock().unwrap()[0].clear().unwrap());
}
