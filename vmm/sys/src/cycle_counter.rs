//! The processor's cycle counter, where a guest under emulation reads the very same one.

/// The counter's value now: RDTSC on x86_64. `None` on processors of other kinds.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "RDTSC is an intrinsic")]
pub fn read() -> Option<u64> {
    // The fences keep the reading between the clock readings that bracket it (Intel SDM vol. 2B, RDTSC).
    // SAFETY: every x86_64 processor has RDTSC and LFENCE (SSE2); neither touches memory of ours. Where the system
    // forbids RDTSC to user programs (prctl PR_SET_TSC), the process gets a signal, which is no memory error.
    let count = unsafe {
        std::arch::x86_64::_mm_lfence();
        let count = std::arch::x86_64::_rdtsc();
        std::arch::x86_64::_mm_lfence();
        count
    };
    Some(count)
}

/// The counter's value now: RDTSC on x86_64. `None` on processors of other kinds.
#[cfg(not(target_arch = "x86_64"))]
pub fn read() -> Option<u64> {
    None
}
