//! The states that a power cut permits, replayed by the hundred thousand.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::some;

pub(super) struct PowerCut;

impl Suite for PowerCut {
    fn name(&self) -> &'static str {
        "power-cut"
    }

    fn purpose(&self) -> &'static str {
        "disks after each state that a power cut permits, with other seeds than `cargo verify` has"
    }

    fn prepare(&self) -> Outcome {
        Ok(())
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        Ok((1..=20).map(|seed| format!("seed {seed}")).collect())
    }

    fn at_once(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn run(&self, piece: &str) -> Outcome<String> {
        let seed = piece.trim_start_matches("seed ");
        some::run(&["--release", "--package", "vmm-disk", "power_cut"], &[("VMM_TEST_SEED", seed)])
    }
}
