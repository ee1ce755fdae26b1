//! What the registers do to the device: the negotiation, its queues, its reset.
//!
//! Each register has an effect in the states in which a driver may use it, and none in the others.

use std::error::Error;
use std::sync::Arc;

use snafu::{OptionExt, ResultExt, ensure};
use vmm_sys::Event;

use super::generation::Generation;
use super::interrupt::MmioInterrupt;
use super::queue::{QueueRegisters, set_high, set_low};
use super::registers::{
    self, FeaturesSettledSnafu, FeaturesSnafu, NoSuchQueueSnafu, NoSuchValueSnafu, NotWritableSnafu,
    QueueReadySnafu, Refusal, WrongStatusSnafu, status,
};
use crate::memory::GuestMemory;
use crate::virtio::device::StartSnafu;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{
    DeviceError, Interrupt, QueueResources, RING_EVENT_INDEX, RING_INDIRECT_DESCRIPTORS, VERSION_1,
    VirtioDevice,
};

static NOT_STARTED: LogLimit = LogLimit::new();

/// The device and what its driver has said so far.
pub(super) struct Session {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    kicks: Arc<[Event]>,
    interrupt: Arc<MmioInterrupt>,
    offered_features: u64,
    generation: Generation,
    driver: DriverState,
    queues: Vec<QueueRegisters>,
}

/// What a reset forgets beside the queues.
#[derive(Default)]
struct DriverState {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    features: u64,
    /// It chose some above the 64 that there are.
    has_unknown_features: bool,
    queue_select: u32,
}

impl Session {
    /// There is a kick for each queue of the device.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        kicks: Arc<[Event]>,
        interrupt: Arc<MmioInterrupt>,
    ) -> Self {
        let offered_features = device.features() | VERSION_1 | RING_EVENT_INDEX | RING_INDIRECT_DESCRIPTORS;
        let queues = vec![QueueRegisters::default(); kicks.len()];
        let (generation, driver) = (Generation::new(), DriverState::default());
        Self { device, memory, kicks, interrupt, offered_features, generation, driver, queues }
    }

    pub(super) fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        self.device.read_config(offset, bytes);
    }

    pub(super) fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        self.device.write_config(offset, bytes);
    }

    /// The value of a register; zero for those that cannot be read, and for a queue that there is not.
    pub(super) fn read(&mut self, register: u64) -> u32 {
        let queue = self.selected();
        match register {
            registers::DEVICE_FEATURES => half(self.offered_features, self.driver.device_features_select),
            registers::QUEUE_SIZE_MAXIMUM => queue.map_or(0, |queue| self.largest_size(queue).into()),
            registers::QUEUE_READY => queue.is_some_and(|queue| self.queues[queue].is_ready).into(),
            registers::STATUS => self.driver.status | self.interrupt.needs_reset_status(),
            registers::CONFIG_GENERATION => {
                self.generation.of(&*self.device, self.interrupt.config_changes())
            }
            _ => 0,
        }
    }

    /// The driver wrote a register.
    pub(super) fn write(&mut self, register: u64, value: u32) -> Result<(), Refusal> {
        match register {
            registers::DEVICE_FEATURES_SELECT => self.driver.device_features_select = value,
            registers::DRIVER_FEATURES_SELECT => self.driver.driver_features_select = value,
            registers::DRIVER_FEATURES => self.choose_features(value)?,
            registers::STATUS => self.set_status(value)?,
            registers::QUEUE_SELECT => self.driver.queue_select = value,
            registers::QUEUE_READY => self.set_ready(value)?,
            registers::QUEUE_SIZE
            | registers::QUEUE_DESCRIPTOR_TABLE_LOW..=registers::QUEUE_USED_RING_HIGH => {
                self.describe_queue(register, value)?;
            }
            // There is no shared memory to select; reading its place says so.
            registers::SHARED_MEMORY_SELECT => {}
            _ => return NotWritableSnafu.fail(),
        }
        Ok(())
    }

    /// Stops every queue.
    pub(super) fn stop_queues(&mut self) {
        for queue in 0..self.queues.len() {
            self.stop_queue(queue);
        }
    }

    fn choose_features(&mut self, value: u32) -> Result<(), Refusal> {
        ensure!(self.driver.status & status::FEATURES_OK == 0, FeaturesSettledSnafu);
        match self.driver.driver_features_select {
            0 => set_low(&mut self.driver.features, value),
            1 => set_high(&mut self.driver.features, value),
            _ => self.driver.has_unknown_features |= value != 0,
        }
        Ok(())
    }

    /// Takes the bits that are new, in the order in which a driver sets them (virtio 1.2, 3.1.1). A driver takes none
    /// back but by a reset: one that is missing stays.
    fn set_status(&mut self, value: u32) -> Result<(), Refusal> {
        if value == 0 {
            self.reset();
            return Ok(());
        }
        let new = value & !self.driver.status;
        self.driver.status |= new & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        if new & status::FEATURES_OK != 0 {
            self.settle_features()?;
        }
        if new & status::DRIVER_OK != 0 {
            self.start_queues()?;
        }
        Ok(())
    }

    /// `FEATURES_OK` stays clear where the driver chose what it was not offered, or wants a legacy device, which this
    /// is not (virtio 1.2, 2.2.2 and 6.2).
    fn settle_features(&mut self) -> Result<(), Refusal> {
        self.expect_status(status::DRIVER)?;
        let (chosen, offered) = (self.driver.features, self.offered_features);
        let is_offered = chosen & !offered == 0 && !self.driver.has_unknown_features;
        ensure!(is_offered && chosen & VERSION_1 != 0, FeaturesSnafu { chosen, offered });
        self.driver.status |= status::FEATURES_OK;
        Ok(())
    }

    /// The driver is ready, and so are the queues that it described.
    fn start_queues(&mut self) -> Result<(), Refusal> {
        self.expect_status(status::FEATURES_OK)?;
        self.driver.status |= status::DRIVER_OK;
        // Before any queue runs, so that none of its interrupts is held back.
        self.interrupt.driver_is_ready();
        for queue in 0..self.queues.len() {
            if self.queues[queue].is_ready {
                self.start_queue(queue);
            }
        }
        Ok(())
    }

    /// Back to the state after creation (virtio 1.2, 2.4 and 4.2.2.1). When it returns, nothing uses the guest's
    /// memory and nothing is pending.
    fn reset(&mut self) {
        self.stop_queues();
        self.device.reset();
        self.interrupt.reset();
        self.driver = DriverState::default();
        self.queues.fill(QueueRegisters::default());
    }

    /// The status has this bit, and the driver has not given up.
    fn expect_status(&self, bit: u32) -> Result<(), Refusal> {
        let status = self.driver.status;
        ensure!(status & bit != 0 && status & status::FAILED == 0, WrongStatusSnafu { status });
        Ok(())
    }

    /// One lets the device execute the queue's requests, zero ends that (virtio 1.2, 4.2.2), after `DRIVER_OK` as well
    /// as before. Linux readies its queues before, and takes them back when the device is reset or was never used. A
    /// queue that is taken back while it runs and made ready again begins anew, as after a reset.
    fn set_ready(&mut self, value: u32) -> Result<(), Refusal> {
        let queue = self.expect_selected()?;
        match value {
            0 => {
                self.queues[queue].is_ready = false;
                self.stop_queue(queue);
            }
            1 if self.queues[queue].is_ready => {}
            1 => {
                self.expect_status(status::FEATURES_OK)?;
                self.queues[queue].is_ready = true;
                if self.driver.status & status::DRIVER_OK != 0 {
                    self.start_queue(queue);
                }
            }
            _ => return NoSuchValueSnafu { value }.fail(),
        }
        Ok(())
    }

    /// Where the selected queue lies. The driver must not change that while it is ready.
    fn describe_queue(&mut self, register: u64, value: u32) -> Result<(), Refusal> {
        let queue = self.expect_selected()?;
        let largest = self.largest_size(queue);
        let described = &mut self.queues[queue];
        ensure!(!described.is_ready, QueueReadySnafu { index: self.driver.queue_select });
        described.describe(register, value, largest)
    }

    /// Starts a queue that is ready. Where that fails the device needs a reset: the driver was told already that it
    /// may use the queue.
    fn start_queue(&mut self, queue: usize) {
        let index = number(queue);
        match self.try_start_queue(queue) {
            Ok(()) => self.queues[queue].runs = true,
            Err(error) => {
                if let Some(left_out) = NOT_STARTED.permit() {
                    let error: &dyn Error = &error;
                    tracing::warn!(error, left_out, "a device needs a reset by its guest");
                }
                self.interrupt.needs_reset(index);
            }
        }
    }

    fn try_start_queue(&mut self, queue: usize) -> Result<(), DeviceError> {
        let index = number(queue);
        let resources = QueueResources {
            memory: self.memory.clone(),
            layout: self.queues[queue].layout(),
            kick: self.kicks[queue].try_clone().context(StartSnafu { index })?,
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
        };
        self.device.start_queue(index, resources, self.driver.features, None)
    }

    fn stop_queue(&mut self, queue: usize) {
        if std::mem::take(&mut self.queues[queue].runs) {
            // Where it stood is of no use: a queue that a driver takes back begins anew.
            self.device.stop_queue(number(queue));
        }
    }

    /// The queue to which the registers apply, if there is such a one.
    fn selected(&self) -> Option<usize> {
        let queue = usize::try_from(self.driver.queue_select).ok()?;
        (queue < self.queues.len()).then_some(queue)
    }

    fn expect_selected(&self) -> Result<usize, Refusal> {
        self.selected().context(NoSuchQueueSnafu { index: self.driver.queue_select })
    }

    fn largest_size(&self, queue: usize) -> u16 {
        self.device.queue_sizes().get(queue).copied().unwrap_or(0)
    }
}

/// The number by which the device knows a queue.
fn number(queue: usize) -> u16 {
    u16::try_from(queue).unwrap_or(u16::MAX)
}

/// The half of a feature word that was selected; there are two.
fn half(word: u64, select: u32) -> u32 {
    let shift = match select {
        0 => 0,
        1 => 32,
        _ => return 0,
    };
    u32::try_from(word >> shift & u64::from(u32::MAX)).unwrap_or(0)
}
