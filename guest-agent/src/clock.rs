//! The guest's clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the kernel started.
pub(crate) fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// The same in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    monotonic().as_micros().try_into().unwrap_or(u64::MAX)
}
