//! The system's monotonic clock as a number that two processes of one boot can compare.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds on the monotonic clock.
pub fn monotonic_us() -> u64 {
    microseconds(ClockId::Monotonic)
}

/// Microseconds of processor time that this process has used, all of its threads together.
pub fn processor_us() -> u64 {
    microseconds(ClockId::ProcessCPUTime)
}

fn microseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1000
}
