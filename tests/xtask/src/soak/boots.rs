//! A thousand machines one after the other, and eight at once: everyone succeeds and leaves nothing.
//!
//! The tests are those that `cargo verify` runs a few rounds of; how many rounds they are told.

use super::Suite;
use crate::failure::Outcome;
use crate::verify::{self, some};

pub(super) struct Boots;

impl Suite for Boots {
    fn name(&self) -> &'static str {
        "boots"
    }

    fn purpose(&self) -> &'static str {
        "1000 runs of `vmm run alpine -- true` in a row, then 8 at once with 128 MiB each; nothing is left"
    }

    fn prepare(&self) -> Outcome {
        verify::prepare()
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        let mut pieces: Vec<String> =
            (1..=10).map(|tenth| format!("in a row, {} to {}", tenth * 100 - 99, tenth * 100)).collect();
        pieces.push("8 at once".to_owned());
        Ok(pieces)
    }

    fn at_once(&self) -> usize {
        1
    }

    fn run(&self, piece: &str) -> Outcome<String> {
        let (test, count) = if piece == "8 at once" {
            ("alone_machines_at_once_all_succeed_and_leave_nothing", "8")
        } else {
            ("machines_in_a_row_all_succeed_and_leave_nothing", "100")
        };
        let ran =
            some::run(&["--package", "vmm-tests", "--test", "engines", test], &[("VMM_TEST_ROUNDS", count)])?;
        Ok(ran.closing)
    }
}
