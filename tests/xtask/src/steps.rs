//! The steps of a command, announced as they begin and summed up with their times at the end.

use std::time::{Duration, Instant};

use crate::failure::Outcome;

/// The steps so far.
pub(crate) struct Steps {
    began: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }

    /// Does one step; its time counts even where it fails.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        println!("==> {name}");
        let began = Instant::now();
        let outcome = work();
        self.done.push((name.to_owned(), began.elapsed()));
        outcome
    }

    /// The time since the first step.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The table of what took how long.
    pub(crate) fn summary(&self) -> String {
        let width = self.done.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(5);
        let mut lines: Vec<String> =
            self.done.iter().map(|(name, time)| format!("  {name:width$}  {:>8}", seconds(*time))).collect();
        lines.push(format!("  {:width$}  {:>8}", "total", seconds(self.elapsed())));
        lines.join("\n")
    }
}

/// A time as people read it.
pub(crate) fn seconds(time: Duration) -> String {
    if time.as_secs() < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn the_summary_has_a_line_for_each_step_even_one_that_failed() {
        let mut steps = Steps::new();
        steps.step("build", || Ok(())).unwrap();
        steps.step::<()>("boot", || Err(Failure::new("no"))).unwrap_err();
        let summary = steps.summary();
        let names: Vec<_> = summary.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["build", "boot", "total"]);
    }

    #[test]
    fn times_are_read_in_seconds_and_then_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(1240)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
