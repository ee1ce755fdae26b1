//! Whether the machine was quiet enough to conclude anything: a fixed piece of work, timed again and again between the
//! measurements; what others wanted of the processors before; what the hypervisor below took away.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::host;
use crate::statistics::Sample;

/// How far apart the middle half of the same work's times may lie, as a part of the median.
const MAX_SPREAD: f64 = 0.10;

/// How much of a core others may want before anything is measured.
const MAX_LOAD: f64 = 0.5;

/// What part of the processors' time may be taken away from below.
const MAX_STEAL: f64 = 0.02;

/// How often the work is timed at least, where anything is.
const FEWEST: usize = 3;

/// Some milliseconds of work.
const STEPS: u64 = 4_000_000;

/// What is known of the noise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// How long the same work took, each time, in milliseconds.
    pub calibration_ms: Vec<f64>,
    /// The load of the minute before.
    pub load_before: Option<f64>,
    /// The part of the processors' time that was taken away from below.
    pub steal: Option<f64>,
}

impl Noise {
    /// What speaks against conclusions, a sentence each.
    pub fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        let sample = Sample::new(self.calibration_ms.clone());
        let spread = sample.spread();
        // What has no time in it, such as memory, needs no calibration.
        if sample.count() > 0 && (sample.count() < FEWEST || spread.is_nan()) {
            objections.push(format!(
                "nobody knows whether this machine was quiet: it was listened to {} times only",
                sample.count()
            ));
        } else if spread > MAX_SPREAD {
            objections.push(format!(
                "the same work took {:.1} to {:.1} ms in the middle half of {} times: {:.0} % apart, and {:.0} % is \
                 the most that lets one conclude",
                sample.quantile(0.25),
                sample.quantile(0.75),
                sample.count(),
                spread * 100.0,
                MAX_SPREAD * 100.0
            ));
        }
        if let Some(load) = self.load_before.filter(|&load| load > MAX_LOAD) {
            objections.push(format!("other work was running before: a load of {load:.2}"));
        }
        if let Some(steal) = self.steal.filter(|&steal| steal > MAX_STEAL) {
            objections.push(format!(
                "the hypervisor below took {:.1} % of the processors' time away",
                steal * 100.0
            ));
        }
        objections
    }

    /// Whether conclusions may be drawn.
    pub fn is_quiet(&self) -> bool {
        self.objections().is_empty()
    }
}

/// Listens while others measure.
pub(crate) struct Listener {
    noise: Noise,
    ticks_before: Option<Ticks>,
}

impl Listener {
    pub(crate) fn new() -> Self {
        // The first time is the processor's, which may have slept.
        calibrate();
        let noise = Noise { load_before: host::load(), ..Noise::default() };
        Self { noise, ticks_before: Ticks::now() }
    }

    /// Times the work once more, between two measurements.
    pub(crate) fn listen(&mut self) {
        self.noise.calibration_ms.push(calibrate());
    }

    pub(crate) fn finish(mut self) -> Noise {
        if let (Some(before), Some(after)) = (self.ticks_before, Ticks::now()) {
            self.noise.steal = after.steal_since(before);
        }
        self.noise
    }
}

/// Works, in one thread and without memory; says how many milliseconds it took.
fn calibrate() -> f64 {
    let began = Instant::now();
    let mut state = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
    began.elapsed().as_secs_f64() * 1000.0
}

/// The processors' time until now.
#[derive(Clone, Copy)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// `cpu user nice system idle iowait irq softirq steal …`: what follows is part of what stands before.
    fn read(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    fn steal_since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|&all| all > 0)?;
        Some(self.stolen.saturating_sub(before.stolen) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(calibration_ms: &[f64]) -> Noise {
        Noise { calibration_ms: calibration_ms.to_vec(), load_before: Some(0.1), steal: Some(0.0) }
    }

    #[test]
    fn a_quiet_machine_has_no_objections() {
        assert_eq!(noise(&[10.0, 10.1, 10.2, 10.1, 25.0]).objections(), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_noise_is_named() {
        let objections = noise(&[10.0, 14.0, 11.0, 16.0]).objections();
        assert!(objections.len() == 1 && objections[0].contains("the same work took"), "{objections:?}");
        let busy = Noise { load_before: Some(1.7), ..noise(&[10.0, 10.0, 10.0]) };
        assert!(busy.objections()[0].contains("a load of 1.70"), "{:?}", busy.objections());
        let stolen = Noise { steal: Some(0.05), ..noise(&[10.0, 10.0, 10.0]) };
        assert!(stolen.objections()[0].contains("5.0 %"), "{:?}", stolen.objections());
        assert!(!noise(&[10.0]).is_quiet());
        // Of memory alone, no time is taken.
        assert!(noise(&[]).is_quiet());
    }

    #[test]
    fn stolen_time_is_a_part_of_all_time() {
        let before = Ticks::read("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2\n").unwrap();
        let after = Ticks::read("cpu  150 0 150 850 0 0 0 50 7 7\n").unwrap();
        assert_eq!(after.steal_since(before), Some(0.25));
        assert!(Ticks::read("cpu 1 2 3\n").is_none());
    }
}
