//! The transport seen from its driver, with real devices behind it and one that records.

mod accesses;
mod devices;
mod garbage;
mod interrupts;
mod negotiation;
mod queues;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys::Event;

use crate::virtio::testing::{GuestQueue, MmioDriver, TestMemory};
use crate::virtio::{DeviceError, DeviceType, Interrupt, QueueResources, QueueState, Vector, VirtioDevice};

const MEMORY: usize = 1 << 20;
/// A feature of the recorder's.
const FEATURE: u64 = 1 << 9;
/// What every device offers: the ring's two features and version 1.
const COMMON: u64 = 1 << 28 | 1 << 29 | 1 << 32;

/// What is done to a [`Recorder`], and what it was given.
#[derive(Default)]
struct Record {
    log: Mutex<Vec<String>>,
    config: Mutex<[u8; 16]>,
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
    kicks: Mutex<Vec<Event>>,
    fails_to_start: AtomicBool,
    /// Breaks a queue as soon as it starts, in the start itself.
    breaks_at_start: AtomicBool,
}

impl Record {
    fn note(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }

    /// What was done since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(self.interrupt.lock().unwrap().as_ref().expect("a queue was started"))
    }

    fn trigger(&self, vector: Vector) {
        self.interrupt().trigger(vector).unwrap();
    }
}

/// A device of two queues that serves nothing.
struct Recorder(Arc<Record>);

impl VirtioDevice for Recorder {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        FEATURE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 8]
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = *self.0.config.lock().unwrap();
        let rest = config.into_iter().skip(usize::try_from(offset).unwrap());
        bytes.iter_mut().zip(rest.chain(std::iter::repeat(0))).for_each(|(byte, value)| *byte = value);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        self.0.note(format!("config {offset} {bytes:?}"));
    }

    fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
        state: Option<QueueState>,
    ) -> Result<(), DeviceError> {
        assert_eq!(state, None);
        let layout = resources.layout;
        let places = [layout.descriptor_table, layout.available_ring, layout.used_ring].map(|place| place.0);
        self.0.note(format!("start {index} features {features:#x} size {} {places:x?}", layout.size));
        if self.0.fails_to_start.load(Ordering::SeqCst) {
            return Err(DeviceError::BadLayout { index, reason: "the test says so".to_owned() });
        }
        if self.0.breaks_at_start.load(Ordering::SeqCst) {
            resources.interrupt.needs_reset(index);
        }
        *self.0.interrupt.lock().unwrap() = Some(resources.interrupt);
        self.0.kicks.lock().unwrap().push(resources.kick);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.0.note(format!("stop {index}"));
        Some(QueueState { next_available: 7, next_used: 7 })
    }

    fn reset(&mut self) {
        self.0.note("reset".to_owned());
    }
}

/// A recorder whose driver has not looked at it.
fn recorder() -> (Arc<Record>, MmioDriver, TestMemory) {
    let record = Arc::new(Record::default());
    let memory = TestMemory::new(MEMORY);
    let driver = MmioDriver::new(Recorder(Arc::clone(&record)), &memory);
    (record, driver, memory)
}

/// A recorder with its first queue running.
fn running_recorder() -> (Arc<Record>, MmioDriver, GuestQueue) {
    let (record, driver, mut memory) = recorder();
    let queue = GuestQueue::new(&mut memory, 16);
    driver.probe(0);
    driver.set_queue(0, &queue);
    driver.driver_ok();
    record.take();
    (record, driver, queue)
}

/// How a queue's start is noted.
fn start_of(index: u16, features: u64, queue: &GuestQueue) -> String {
    let layout = queue.layout();
    let places = [layout.descriptor_table, layout.available_ring, layout.used_ring].map(|place| place.0);
    format!("start {index} features {features:#x} size {} {places:x?}", layout.size)
}
