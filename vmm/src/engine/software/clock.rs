//! The rate of the counter that an emulated x86 guest reads as its time-stamp counter.
//!
//! Under TCG, the guest's RDTSC is the host's. A guest that is told its rate needs no timer chip to measure it by.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::engine::cache;

/// What is known of the host's counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CounterRate {
    /// It counts at this rate, always.
    Known {
        /// In kHz.
        kilohertz: u64,
    },
    /// It cannot be used as a clock, or its rate cannot be known: why, in a sentence.
    Unknown {
        /// The reason.
        reason: String,
    },
}

/// How long a measurement takes. Each of its two ends is off by well under 100 ns, so it is right to 20 ppm.
const MEASUREMENT: Duration = Duration::from_millis(8);

/// Rates that a processor can have; anything else is a measurement gone wrong.
const PLAUSIBLE_KILOHERTZ: std::ops::RangeInclusive<u64> = 100_000..=20_000_000;

impl CounterRate {
    /// Finds the rate: remembered since the host booted, or measured.
    pub(super) fn find(folder: Option<&Path>) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let source =
            std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        if let Err(reason) = fit_as_clock(&cpuinfo, source.ok().as_deref().map(str::trim)) {
            return Self::Unknown { reason };
        }
        let boot = cache::boot_id().unwrap_or_default();
        let file = folder.map(|folder| folder.join("counter-rate"));
        if let Some(kilohertz) = file.as_deref().and_then(|file| recall(file, &boot)) {
            return Self::Known { kilohertz };
        }
        match measure() {
            Some(kilohertz) => {
                if let Some(file) = file {
                    remember(&file, &boot, kilohertz);
                }
                Self::Known { kilohertz }
            }
            None => Self::Unknown { reason: "the processor's counter could not be measured".to_owned() },
        }
    }
}

/// Whether the counter runs at one rate through all states of the processor, and the same on all of them.
///
/// The first is what the flags `constant_tsc` and `nonstop_tsc` say; the second the kernel checks while it runs, and
/// takes another clock source when it fails.
fn fit_as_clock(cpuinfo: &str, source: Option<&str>) -> Result<(), String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
    match source {
        Some("tsc") => Ok(()),
        // Clocks of hypervisors that are computed from the counter.
        Some(name @ ("kvm-clock" | "hyperv_clocksource_tsc_page" | "xen")) => {
            if has("constant_tsc") && has("nonstop_tsc") {
                Ok(())
            } else {
                Err(format!("the host's clock is {name}, and its processor promises no constant counter"))
            }
        }
        Some(name) => {
            Err(format!("the host's kernel does not trust its processor's counter (its clock is {name})"))
        }
        None => Err("the host's kernel does not say what its clock is".to_owned()),
    }
}

fn recall(file: &Path, boot: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let (known_boot, kilohertz) = text.trim().split_once(' ')?;
    let kilohertz = kilohertz.parse().ok()?;
    (!boot.is_empty() && known_boot == boot && PLAUSIBLE_KILOHERTZ.contains(&kilohertz)).then_some(kilohertz)
}

fn remember(file: &Path, boot: &str, kilohertz: u64) {
    if let Err(error) = cache::write(file, format!("{boot} {kilohertz}\n")) {
        tracing::debug!(%error, "cannot remember the rate of the processor's counter");
    }
}

/// Counts against the raw clock, which nobody adjusts.
#[expect(clippy::disallowed_methods, reason = "time that passes is what is waited for")]
fn measure() -> Option<u64> {
    let (count, time) = read_both()?;
    let started = Instant::now();
    // Sleeping, not spinning: another guest may want the processor.
    while started.elapsed() < MEASUREMENT {
        std::thread::sleep(MEASUREMENT.saturating_sub(started.elapsed()));
    }
    let (later_count, later_time) = read_both()?;
    let nanoseconds = u128::from(later_time.checked_sub(time)?);
    let counted = u128::from(later_count.checked_sub(count)?);
    let kilohertz = (counted * 1_000_000 + nanoseconds / 2).checked_div(nanoseconds)?;
    u64::try_from(kilohertz).ok().filter(|kilohertz| PLAUSIBLE_KILOHERTZ.contains(kilohertz))
}

/// The counter and the clock at the same moment: of several tries, the one that took least.
fn read_both() -> Option<(u64, u64)> {
    let mut best: Option<(u64, u64, u64)> = None;
    for _ in 0..32 {
        let before = vmm_sys::cycle_counter::read()?;
        let time = clock_gettime(ClockId::MonotonicRaw);
        let after = vmm_sys::cycle_counter::read()?;
        let width = after.checked_sub(before)?;
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanoseconds = seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?;
        if best.is_none_or(|(least, ..)| width < least) {
            best = Some((width, before + width / 2, nanoseconds));
        }
    }
    best.map(|(_, count, time)| (count, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "flags\t\t: fpu tsc constant_tsc nonstop_tsc\n";

    #[test]
    fn a_counter_that_the_kernel_trusts_is_a_clock() {
        assert!(fit_as_clock(GOOD, Some("tsc")).is_ok());
        assert!(fit_as_clock(GOOD, Some("kvm-clock")).is_ok());
    }

    #[test]
    fn a_counter_that_the_kernel_does_not_trust_is_none() {
        assert!(fit_as_clock(GOOD, Some("hpet")).is_err());
        assert!(fit_as_clock("flags : fpu tsc\n", Some("kvm-clock")).is_err());
        assert!(fit_as_clock(GOOD, None).is_err());
    }

    #[test]
    fn a_rate_is_remembered_for_one_boot_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache/counter-rate");
        remember(&file, "boot-1", 2_596_096);
        assert_eq!(recall(&file, "boot-1"), Some(2_596_096));
        assert_eq!(recall(&file, "boot-2"), None);
        remember(&file, "boot-1", 7);
        assert_eq!(recall(&file, "boot-1"), None, "7 kHz is no processor's rate");
    }

    #[test]
    fn a_measurement_is_plausible_or_there_is_none() {
        if let Some(kilohertz) = measure() {
            assert!(PLAUSIBLE_KILOHERTZ.contains(&kilohertz));
        }
    }
}
