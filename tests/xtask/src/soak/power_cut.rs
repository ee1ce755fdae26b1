//! The states that a power cut permits, replayed for as long as a soak lasts: the tests of `vmm-disk` with seed after
//! seed, and with all the samples of the design for each.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::some;

/// How long each test goes on.
const SECONDS: &str = "1500";

pub(super) struct PowerCut;

impl Suite for PowerCut {
    fn name(&self) -> &'static str {
        "power-cut"
    }

    fn purpose(&self) -> &'static str {
        "disks in each state that a power cut permits, with ever new seeds for 25 minutes a test"
    }

    fn prepare(&self) -> Outcome {
        Ok(())
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        let tests = ["random_deeds_survive_power_cuts", "threads_that_write_and_flush_at_once_lose_nothing"];
        Ok(tests.map(str::to_owned).to_vec())
    }

    fn at_once(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn run(&self, test: &str) -> Outcome<String> {
        let arguments = ["--release", "--package", "vmm-disk", "--test", "power_cut", test];
        let ran = some::run(&arguments, &[("VMM_DISK_SOAK", SECONDS)])?;
        let states = ran.said.lines().rev().find(|line| line.ends_with(" states")).unwrap_or_default();
        Ok(format!("{}, {states}", ran.closing))
    }
}
