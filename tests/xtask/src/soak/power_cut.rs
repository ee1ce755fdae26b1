//! The states that a power cut permits, replayed for as long as a soak lasts: the tests of `vmm-disk`, and those of the
//! operations on the disks of VMs, with seed after seed and many samples for each.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::some;

/// How long each test goes on.
const SECONDS: &str = "1500";

/// The test of the operations on the disks of VMs.
const OPERATIONS: &str = "operations_on_disks_survive_power_cuts";

pub(super) struct PowerCut;

impl Suite for PowerCut {
    fn name(&self) -> &'static str {
        "power-cut"
    }

    fn purpose(&self) -> &'static str {
        "disks in each state that a power cut permits, with ever new seeds for 25 minutes a test"
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        let tests = ["random_deeds_survive_power_cuts", "threads_that_write_and_flush_at_once_lose_nothing"];
        Ok(tests.into_iter().chain([OPERATIONS]).map(str::to_owned).collect())
    }

    fn run(&self, test: &str) -> Outcome<String> {
        let program: &[&str] = match test {
            OPERATIONS => &["--package", "vmm", "--lib"],
            _ => &["--package", "vmm-disk", "--test", "power_cut"],
        };
        let arguments = [&["--release"], program, &[test]].concat();
        let ran = some::run(&arguments, &[("VMM_DISK_SOAK", SECONDS)])?;
        let states = ran.said.lines().rev().find(|line| line.ends_with(" states")).unwrap_or_default();
        Ok(format!("{}, {states}", ran.closing))
    }
}
