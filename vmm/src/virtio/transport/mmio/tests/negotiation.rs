//! What a device says of itself, and the steps in which its driver answers.

use super::{COMMON, FEATURE, recorder, running_recorder};
use crate::virtio::testing::{GuestQueue, register, status};

#[test]
fn a_device_says_what_it_is() {
    let (_record, driver, _memory) = recorder();
    assert_eq!(driver.read(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(register::VERSION), 2);
    assert_eq!(driver.read(register::DEVICE_ID), 2);
    assert_eq!(driver.read(register::VENDOR_ID).to_le_bytes(), *b"vmm\0");
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.features(), COMMON | FEATURE);
    for select in [2, 3, u32::MAX] {
        driver.write(register::DEVICE_FEATURES_SEL, select);
        assert_eq!(driver.read(register::DEVICE_FEATURES), 0);
    }
}

#[test]
fn a_driver_that_does_as_linux_does_makes_23_accesses_and_11_for_each_queue() {
    let (record, driver, mut memory) = recorder();
    let queues = [16, 8].map(|size| GuestQueue::new(&mut memory, size));
    driver.probe(0);
    (0..).zip(&queues).for_each(|(index, queue)| driver.set_queue(index, queue));
    driver.driver_ok();
    assert_eq!(driver.take_accesses(), 23 + 2 * 11);
    assert_eq!(record.take().len(), 3);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let (_record, driver, _memory) = recorder();
    driver.add_status(status::ACKNOWLEDGE | status::DRIVER);
    for features in [COMMON | 1, COMMON | 1 << 63, COMMON | 1 << 33, FEATURE, 0, u64::MAX] {
        driver.choose_features(features);
        driver.add_status(status::FEATURES_OK);
        assert_eq!(driver.status(), status::ACKNOWLEDGE | status::DRIVER, "{features:#x}");
    }
    // It may think again.
    driver.choose_features(COMMON);
    driver.add_status(status::FEATURES_OK);
    assert_ne!(driver.status() & status::FEATURES_OK, 0);
}

#[test]
fn features_above_those_that_there_are_are_refused() {
    let (_record, driver, _memory) = recorder();
    driver.add_status(status::ACKNOWLEDGE | status::DRIVER);
    driver.choose_features(COMMON);
    for (select, value) in [(2, 0), (u32::MAX, 1)] {
        driver.write(register::DRIVER_FEATURES_SEL, select);
        driver.write(register::DRIVER_FEATURES, value);
    }
    driver.add_status(status::FEATURES_OK);
    assert_eq!(driver.status() & status::FEATURES_OK, 0);
    driver.negotiate(0);
}

#[test]
fn features_are_settled_until_a_reset() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    driver.probe(FEATURE);
    driver.choose_features(u64::MAX);
    driver.set_queue(0, &queue);
    driver.driver_ok();
    assert_eq!(record.take()[1], super::start_of(0, COMMON, &queue));
    driver.negotiate(0);
    driver.set_queue(0, &queue);
    driver.driver_ok();
    assert_eq!(record.take()[2], super::start_of(0, COMMON | FEATURE, &queue));
}

#[test]
fn no_step_is_taken_before_the_one_it_needs() {
    let (record, driver, _memory) = recorder();
    driver.choose_features(COMMON);
    driver.write(register::STATUS, status::FEATURES_OK);
    assert_eq!(driver.status(), 0);
    driver.write(register::STATUS, status::DRIVER_OK);
    assert_eq!(driver.status(), 0);
    driver.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    assert_eq!(driver.status(), status::ACKNOWLEDGE | status::DRIVER);
    // All at once is no less than one by one.
    driver.write(register::STATUS, 0xf);
    assert_eq!(driver.status(), 0xf);
    assert!(record.take().is_empty());
}

#[test]
fn a_driver_that_gave_up_starts_nothing_before_a_reset() {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    driver.probe(0);
    driver.set_queue(0, &queue);
    driver.write(register::STATUS, driver.status() | status::FAILED | status::DRIVER_OK);
    assert_eq!(driver.status() & (status::FAILED | status::DRIVER_OK), status::FAILED);
    driver.write(register::QUEUE_SEL, 1);
    driver.write(register::QUEUE_READY, 1);
    assert_eq!(driver.read(register::QUEUE_READY), 0);
    assert_eq!(record.take(), ["reset"]);
    driver.negotiate(0);
}

#[test]
fn bits_of_the_status_that_are_not_the_drivers_to_set_or_clear_stay() {
    let (record, driver, _queue) = running_recorder();
    for value in [16, 32, status::DEVICE_NEEDS_RESET, 0x100, 0xffff_ff00 & !status::FAILED, 1] {
        driver.write(register::STATUS, value);
        assert_eq!(driver.status(), 0xf, "{value:#x}");
    }
    assert!(record.take().is_empty());
}

#[test]
fn a_reset_stops_the_queues_then_the_device_and_forgets_what_the_driver_said() {
    let (record, driver, _queue) = running_recorder();
    driver.write(register::QUEUE_SEL, 1);
    driver.reset();
    assert_eq!(record.take(), ["stop 0", "reset"]);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.features(), COMMON | FEATURE);
    assert_eq!(driver.read(register::QUEUE_NUM_MAX), 16);
    assert_eq!(driver.read(register::QUEUE_READY), 0);
    // The features are no longer there, nor the queue's place.
    driver.write(register::STATUS, 0xf);
    assert_eq!(driver.status(), status::ACKNOWLEDGE | status::DRIVER);
    driver.negotiate(0);
    driver.write(register::QUEUE_READY, 1);
    driver.driver_ok();
    let log = record.take();
    assert_eq!(log[1], format!("start 0 features {:#x} size 0 [0, 0, 0]", COMMON | FEATURE));
    driver.reset();
    driver.reset();
    assert_eq!(record.take(), ["stop 0", "reset", "reset"]);
}
