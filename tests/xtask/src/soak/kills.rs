//! Any process of a VM's is killed at any moment, 200 times.
//!
//! The test is the one that `cargo verify` runs a few rounds of; how many rounds it is told.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::{self, some};

/// How many pieces there are, and how many rounds each.
const PIECES: usize = 10;
const ROUNDS: usize = 20;

pub(super) struct Kills;

impl Suite for Kills {
    fn name(&self) -> &'static str {
        "kills"
    }

    fn purpose(&self) -> &'static str {
        "200 times any process of a VM's is killed at any moment; nothing is orphaned, and `vmm ps` tells the truth"
    }

    fn prepare(&self) -> Outcome {
        verify::prepare()
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        Ok((1..=PIECES).map(|piece| format!("{piece} of {PIECES}")).collect())
    }

    fn run(&self, _piece: &str) -> Outcome<String> {
        let test = "any_process_is_killed_at_any_moment_and_nothing_is_orphaned";
        let rounds = ROUNDS.to_string();
        let ran = some::run(
            &["--package", "vmm-tests", "--test", "once", test],
            &[("VMM_TEST_ROUNDS", rounds.as_str())],
        )?;
        Ok(ran.closing)
    }
}
