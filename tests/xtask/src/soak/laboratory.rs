//! Machines on KVM for an hour, in laboratories: they come and go in every way, and what each leaves is counted.
//!
//! The test is the one that `cargo verify` runs a few rounds of; how long it goes on it is told.

use std::time::Duration;

use super::Suite;
use crate::failure::{Failure, Outcome};
use crate::lab;
use crate::verify;

/// How many pieces there are, and how long each lasts: with fewer rounds, memory that is lost is not told from noise.
const PIECES: usize = 6;
const PIECE: Duration = Duration::from_secs(600);

/// The program of tests, and the test.
const PROGRAM: &str = "rounds";
const TEST: &str = "machines_come_and_go_in_every_way_and_all_is_as_it_was";

pub(super) struct Laboratory;

impl Suite for Laboratory {
    fn name(&self) -> &'static str {
        "laboratory"
    }

    fn purpose(&self) -> &'static str {
        "machines on KVM that come and go for an hour, in 6 laboratories; nothing is left, and no memory lost"
    }

    fn prepare(&self) -> Outcome {
        verify::prepare()
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        Ok((1..=PIECES).map(|piece| format!("{piece} of {PIECES}")).collect())
    }

    /// A laboratory has two processors, as has the machine that is the least for this: two of them at once would each
    /// make half the rounds.
    fn at_once(&self) -> usize {
        1
    }

    fn run(&self, _piece: &str) -> Outcome<String> {
        let said = lab::run_test(PROGRAM, TEST, PIECE)?;
        summary(&said)
            .map(str::to_owned)
            .ok_or_else(|| Failure::new("the rounds were not counted").hint(&said))
    }
}

/// What the test says of its rounds.
fn summary(said: &str) -> Option<&str> {
    // Rust's test programs write a test's name, and no new line, before the test begins.
    said.lines().find_map(|line| Some(line.split_once("rounds: ")?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_found_behind_the_tests_name() {
        let said = "running 1 test\ntest come_and_go ... rounds: 11 rounds, 12 commands\nmemory: []\nok\n";
        assert_eq!(summary(said), Some("11 rounds, 12 commands"));
        assert_eq!(summary("running 1 test\n"), None);
    }
}
