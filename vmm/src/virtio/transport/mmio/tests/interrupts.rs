//! What the device tells its driver.

use std::sync::mpsc;
use std::thread;

use super::{MEMORY, recorder, running_recorder};
use crate::virtio::testing::{GuestQueue, MmioDriver, TestMemory, register, status};
use crate::virtio::{DeviceError, DeviceType, QueueResources, QueueState, Vector, VirtioDevice};

#[test]
fn an_interrupt_says_what_it_is_for_until_that_is_acknowledged() {
    let (record, driver, _queue) = running_recorder();
    record.trigger(Vector::Queue(0));
    assert!(driver.line().clear().unwrap());
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 1);
    record.trigger(Vector::Config);
    assert!(driver.line().clear().unwrap());
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 3);
    driver.write(register::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 2);
    driver.write(register::INTERRUPT_ACK, !2);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 2);
    driver.write(register::INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 0);
    // The acknowledgement of everything took nothing else along.
    record.trigger(Vector::Queue(1));
    assert_eq!(driver.wait_for_interrupt(), 1);
}

#[test]
fn the_line_is_raised_again_for_what_nobody_acknowledged() {
    let (record, driver, _queue) = running_recorder();
    for _ in 0..3 {
        record.trigger(Vector::Queue(0));
        assert!(driver.line().clear().unwrap());
    }
}

#[test]
fn an_interrupt_costs_its_driver_two_accesses() {
    let (record, driver, _queue) = running_recorder();
    driver.take_accesses();
    record.trigger(Vector::Queue(0));
    assert_eq!(driver.wait_for_interrupt(), 1);
    assert_eq!(driver.take_accesses(), 2);
}

#[test]
fn after_a_reset_nothing_is_pending_and_nothing_comes() {
    let (record, driver, _queue) = running_recorder();
    record.trigger(Vector::Queue(0));
    record.trigger(Vector::Config);
    record.interrupt().needs_reset(0);
    driver.line().clear().unwrap();
    driver.reset();
    assert_eq!((driver.read(register::INTERRUPT_STATUS), driver.status()), (0, 0));
    // A handle that outlived its queue reaches nobody, until the next driver is ready.
    let late = record.interrupt();
    driver.negotiate(0);
    late.trigger(Vector::Queue(0)).unwrap();
    late.trigger(Vector::Config).unwrap();
    late.needs_reset(0);
    assert!(!driver.line().clear().unwrap());
    assert_eq!(driver.read(register::INTERRUPT_STATUS), 0);
    driver.driver_ok();
    assert_eq!((driver.read(register::INTERRUPT_STATUS), driver.status()), (0, 0xf));
    late.trigger(Vector::Config).unwrap();
    assert_eq!(driver.wait_for_interrupt(), 2);
}

#[test]
fn the_generation_changes_with_each_change_that_is_told() {
    let (record, driver, _queue) = running_recorder();
    let generation = || driver.read(register::CONFIG_GENERATION);
    let mut seen = vec![generation()];
    assert_eq!(generation(), seen[0]);
    for _ in 0..3 {
        record.trigger(Vector::Config);
        let new = generation();
        assert!(!seen.contains(&new));
        seen.push(new);
    }
    record.trigger(Vector::Queue(0));
    assert_eq!(generation(), seen[3]);
    driver.reset();
    assert_eq!(generation(), seen[3]);
}

#[test]
fn a_field_that_changes_between_its_halves_changes_the_generation_before_it_is_told() {
    let (record, driver, _memory) = recorder();
    let before = driver.read(register::CONFIG_GENERATION);
    driver.read_config::<4>(0);
    record.config.lock().unwrap()[..8].fill(0xff);
    driver.read_config::<4>(4);
    let after = driver.read(register::CONFIG_GENERATION);
    assert_ne!(before, after);
    assert_eq!(driver.read(register::CONFIG_GENERATION), after);
    record.config.lock().unwrap()[15] = 1;
    assert_ne!(driver.read(register::CONFIG_GENERATION), after);
}

/// A device whose reset takes until it is told to end.
struct Slow {
    begun: mpsc::Sender<()>,
    end: mpsc::Receiver<()>,
}

impl VirtioDevice for Slow {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, _bytes: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _bytes: &[u8]) {}

    fn start_queue(
        &mut self,
        _index: u16,
        resources: QueueResources,
        _features: u64,
        _state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        resources.interrupt.trigger(Vector::Queue(0)).unwrap();
        Ok(())
    }

    fn stop_queue(&mut self, _index: u16) -> Option<QueueState> {
        None
    }

    fn reset(&mut self) {
        self.begun.send(()).unwrap();
        self.end.recv().unwrap();
    }
}

#[test]
fn a_reset_that_takes_long_holds_up_neither_interrupts_nor_notifications() {
    let ((begin, begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
    let mut memory = TestMemory::new(MEMORY);
    let queue = GuestQueue::new(&mut memory, 16);
    let driver = MmioDriver::new(Slow { begun: begin, end: ends }, &memory);
    end.send(()).unwrap();
    driver.probe(0);
    begun.recv().unwrap();
    driver.set_queue(0, &queue);
    driver.driver_ok();
    thread::scope(|scope| {
        scope.spawn(|| driver.reset());
        begun.recv().unwrap();
        assert_eq!(driver.wait_for_interrupt(), 1);
        driver.notify(0);
        assert!(driver.transport().kicks()[0].clear().unwrap());
        end.send(()).unwrap();
    });
    assert_eq!(driver.status() & status::DRIVER_OK, 0);
}
