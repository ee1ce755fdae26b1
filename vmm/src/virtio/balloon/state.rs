//! What the host and the driver want from each other: the configuration space.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::request::PAGE_SIZE;
use crate::virtio::{Interrupt, Vector};

/// The features of the device (5.5.3).
pub(super) mod feature {
    pub(in super::super) const DEFLATE_ON_OUT_OF_MEMORY: u64 = 1 << 2;
    pub(in super::super) const PAGE_REPORTING: u64 = 1 << 5;
}

/// Two words (5.5.4): the pages that the host wants, and those that the driver has in its balloon.
const CONFIG_LENGTH: usize = 8;
const ACTUAL_OFFSET: u64 = 4;

/// The balloon, as the host and the registers see it.
#[derive(Default)]
pub(super) struct BalloonState {
    target: AtomicU32,
    actual: AtomicU32,
    /// Who tells the driver, while there is one.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl BalloonState {
    pub(super) fn set_target(&self, bytes: u64) -> io::Result<()> {
        let pages = u32::try_from(bytes / u64::from(PAGE_SIZE)).unwrap_or(u32::MAX);
        // With the lock: a driver that comes at this moment either reads the new target or is told of it.
        let interrupt = self.interrupt();
        self.target.store(pages, Ordering::Release);
        interrupt.as_ref().map_or(Ok(()), |interrupt| interrupt.trigger(Vector::Config))
    }

    pub(super) fn target(&self) -> u64 {
        u64::from(self.target.load(Ordering::Acquire)) * u64::from(PAGE_SIZE)
    }

    pub(super) fn actual(&self) -> u64 {
        u64::from(self.actual.load(Ordering::Acquire)) * u64::from(PAGE_SIZE)
    }

    pub(super) fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self.interrupt() = interrupt;
    }

    /// The next driver begins with an empty balloon. What the host wants stays.
    pub(super) fn reset(&self) {
        self.actual.store(0, Ordering::Release);
    }

    pub(super) fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let config = self.config();
        let start = usize::try_from(offset).unwrap_or(CONFIG_LENGTH).min(CONFIG_LENGTH);
        let rest = config[start..].iter().copied().chain(std::iter::repeat(0));
        bytes.iter_mut().zip(rest).for_each(|(byte, value)| *byte = value);
    }

    /// The driver says how many pages it has in its balloon; all else is read-only.
    pub(super) fn write_config(&self, offset: u64, bytes: &[u8]) {
        let mut actual = self.actual.load(Ordering::Acquire).to_le_bytes();
        for (place, byte) in (ACTUAL_OFFSET..).zip(&mut actual) {
            let written = place.checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            *byte = written.and_then(|at| bytes.get(at)).copied().unwrap_or(*byte);
        }
        self.actual.store(u32::from_le_bytes(actual), Ordering::Release);
    }

    fn config(&self) -> [u8; CONFIG_LENGTH] {
        let words = [&self.target, &self.actual].map(|word| word.load(Ordering::Acquire));
        let mut config = [0; CONFIG_LENGTH];
        config.copy_from_slice(words.map(u32::to_le_bytes).as_flattened());
        config
    }

    fn interrupt(&self) -> MutexGuard<'_, Option<Arc<dyn Interrupt>>> {
        self.interrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
