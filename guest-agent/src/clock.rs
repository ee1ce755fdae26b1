//! The guest's clocks.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// The time since the kernel started.
pub(crate) fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

/// The same in microseconds.
pub(crate) fn monotonic_us() -> u64 {
    monotonic().as_micros().try_into().unwrap_or(u64::MAX)
}

/// Sets the time of day, in nanoseconds since 1970.
pub(crate) fn set(time_ns: u64) -> io::Result<()> {
    let time = Timespec::try_from(Duration::from_nanos(time_ns)).map_err(io::Error::other)?;
    Ok(clock_settime(ClockId::Realtime, time)?)
}
