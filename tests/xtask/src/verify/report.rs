//! What the tests said: how many passed, which failed, which were skipped and why.

use std::collections::BTreeMap;
use std::fmt;

/// The outcome of some tests.
#[derive(Debug, Default)]
pub(crate) struct Report {
    ran: usize,
    failures: Vec<Failed>,
    /// How many tests each reason skipped.
    skipped: BTreeMap<String, usize>,
}

/// A test that failed.
#[derive(Debug)]
struct Failed {
    name: String,
    said: String,
}

impl Report {
    /// Takes the outcome of other tests into this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.failures.extend(other.failures);
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
    }

    /// Takes in what a whole program of tests printed.
    pub(super) fn add_output(&mut self, name: &str, succeeded: bool, said: &str) {
        let (passed, failed) = counts(said);
        self.ran += passed + failed;
        self.add_skips(said);
        if !succeeded {
            // A program that was killed counted nothing: it is one failure.
            self.ran += usize::from(failed == 0);
            let said = said.to_owned();
            self.failures.push(Failed { name: name.to_owned(), said });
        }
    }

    /// Takes in the outcome of a single test.
    pub(crate) fn add_test(&mut self, name: &str, succeeded: bool, said: &str) {
        self.ran += 1;
        if succeeded {
            self.add_skips(said);
        } else {
            self.failures.push(Failed { name: name.to_owned(), said: said.to_owned() });
        }
    }

    fn add_skips(&mut self, said: &str) {
        for reason in skips(said) {
            *self.skipped.entry(reason.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn failed(&self) -> usize {
        self.failures.iter().map(|failed| counts(&failed.said).1.max(1)).sum()
    }

    fn skipped(&self) -> usize {
        self.skipped.values().sum()
    }

    pub(crate) fn passed(&self) -> usize {
        self.ran.saturating_sub(self.failed() + self.skipped())
    }

    /// The sum, in a form that CI services read.
    pub(crate) fn closing_line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed(), self.failed(), self.skipped())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failures {
            writeln!(f, "---- {} failed:\n{}\n", failed.name, failed.said.trim_end())?;
        }
        for (reason, count) in &self.skipped {
            writeln!(f, "skipped {count}: {reason}")?;
        }
        Ok(())
    }
}

/// The reasons of the tests that say they were skipped.
pub(super) fn skips(said: &str) -> impl Iterator<Item = &str> {
    // Rust's test programs write a test's name, and no new line, before the test begins.
    said.lines().filter_map(|line| {
        let line = line.split_once(" ... ").map_or(line, |(_, said)| said);
        Some(line.trim().strip_prefix("skipped:")?.trim())
    })
}

/// How many tests passed and failed, by the closing lines of Rust's test programs.
fn counts(said: &str) -> (usize, usize) {
    let results = said.lines().filter_map(|line| line.trim().strip_prefix("test result:"));
    results.fold((0, 0), |(passed, failed), result| {
        let count = |word: &str| {
            let part = result.split([';', '.']).find(|part| part.trim().ends_with(word));
            part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        (passed + count(" passed"), failed + count(" failed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "test a ... ok\nskipped: no fuse here\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
    const BAD: &str =
        "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn the_sum_counts_each_test_once() {
        let mut report = Report::default();
        report.add_output("one", true, GOOD);
        report.add_output("two", false, BAD);
        report.add_test("three", true, "");
        assert_eq!(report.closing_line(), "4 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_program_that_died_is_a_failure() {
        let mut report = Report::default();
        report.add_output("died", false, "running 5 tests\n");
        assert_eq!((report.passed(), report.failed()), (0, 1));
    }

    #[test]
    fn a_failure_is_shown_with_what_it_said_and_a_skip_with_its_reason() {
        let mut report = Report::default();
        report.add_test("boots", false, "assertion failed: lost\n");
        report.add_test("other", true, "skipped: no network\n");
        report.add_test("another", true, "skipped: no network\n");
        let text = report.to_string();
        assert!(text.contains("---- boots failed:\nassertion failed: lost\n"), "{text}");
        assert!(text.contains("skipped 2: no network\n"), "{text}");
    }
}
