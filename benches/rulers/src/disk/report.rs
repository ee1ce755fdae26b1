//! What was measured of both disks, as a table and as data.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Measurement;
use super::workload::Workload;
use vmm_benches::statistics::Sample;

/// What the ratios are to reach, and what they must not fall below.
const GOAL: f64 = 1.0;
const FLOOR: f64 = 0.9;

/// All rounds of all workloads.
pub(crate) struct Report<'a> {
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    workload: &'a Workload,
    rounds: Vec<[Measurement; 2]>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(workloads: &[&'a Workload]) -> Self {
        Self { rows: workloads.iter().map(|&workload| Row { workload, rounds: Vec::new() }).collect() }
    }

    /// Takes a round in; says in a line what became of it.
    pub(crate) fn add(&mut self, measured: &[[Measurement; 2]]) -> String {
        let mut line = format!("round {}:", self.rows.first().map_or(0, |row| row.rounds.len()) + 1);
        for (row, &both) in self.rows.iter_mut().zip(measured) {
            let _never_fails = write!(line, " {:.2}/{:.2}", rate_ratio(&both), cost_ratio(&both));
            row.rounds.push(both);
        }
        line
    }

    pub(crate) fn table(&self) -> String {
        let mut table =
            "| | ours | theirs | ours to theirs | processor time, ours | theirs | theirs to ours | |\n\
                         |---|---|---|---|---|---|---|---|\n"
                .to_owned();
        for row in &self.rows {
            let [rate, cost] = [row.ratios(rate_ratio), row.ratios(cost_ratio)];
            let verdict = verdict(rate.median().min(cost.median()));
            let unit = row.workload.unit();
            let figure = |side, of: &dyn Fn(&Measurement) -> f64| row.sample(side, of).median();
            let rate_of = |measured: &Measurement| rate_of(measured, row.workload);
            let cost_of = |measured: &Measurement| cost_of(measured, row.workload);
            let _never_fails = writeln!(
                table,
                "| {} | {:.0} {} | {:.0} | {} | {:.1} {} | {:.1} | {} | {verdict} |",
                row.workload.name,
                figure(0, &rate_of),
                unit.rate,
                figure(1, &rate_of),
                spread(&rate),
                figure(0, &cost_of),
                unit.cost,
                figure(1, &cost_of),
                spread(&cost),
            );
        }
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        table
            + &format!(
                "\nMedians of {rounds} rounds; of ratios the rounds' own, and from the least to the most.\n"
            )
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row<'_>| {
            let side = |side| {
                let numbers = |of: &dyn Fn(&Measurement) -> f64| -> Vec<f64> {
                    row.rounds.iter().map(|both| of(&both[side])).collect()
                };
                json!({
                    row.workload.unit().rate: numbers(&|measured| rate_of(measured, row.workload)),
                    format!("processor {}", row.workload.unit().cost):
                        numbers(&|measured| cost_of(measured, row.workload)),
                })
            };
            let ratio = |ratios: &Sample| {
                json!({
                    "median": ratios.median(), "least": ratios.quantile(0.0), "most": ratios.quantile(1.0),
                    "count": ratios.count(),
                })
            };
            json!({
                "workload": row.workload.name,
                "vmm": side(0),
                "peer": side(1),
                "rate_ratio": ratio(&row.ratios(rate_ratio)),
                "processor_ratio": ratio(&row.ratios(cost_ratio)),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

impl Row<'_> {
    fn ratios(&self, of: fn(&[Measurement; 2]) -> f64) -> Sample {
        Sample::new(self.rounds.iter().map(of).collect())
    }

    fn sample(&self, side: usize, of: &dyn Fn(&Measurement) -> f64) -> Sample {
        Sample::new(self.rounds.iter().map(|both| of(&both[side])).collect())
    }
}

/// In what a workload is measured.
struct Unit {
    rate: &'static str,
    cost: &'static str,
}

impl Workload {
    fn unit(&self) -> Unit {
        if self.random {
            Unit { rate: "IOPS", cost: "µs per request" }
        } else {
            Unit { rate: "MiB/s", cost: "ms per GiB" }
        }
    }
}

/// How many times as fast ours is. The same work was done, so the times tell.
fn rate_ratio([ours, theirs]: &[Measurement; 2]) -> f64 {
    theirs.time.as_secs_f64() / ours.time.as_secs_f64()
}

/// How many times as much processor time theirs took.
fn cost_ratio([ours, theirs]: &[Measurement; 2]) -> f64 {
    theirs.processor.as_secs_f64() / ours.processor.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "some thousands of requests, some GiB")]
fn rate_of(measured: &Measurement, workload: &Workload) -> f64 {
    let amount = if workload.random { measured.requests } else { measured.bytes >> 20 };
    amount as f64 / measured.time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "some thousands of requests, some GiB")]
fn cost_of(measured: &Measurement, workload: &Workload) -> f64 {
    let seconds = measured.processor.as_secs_f64();
    if workload.random {
        seconds * 1e6 / measured.requests as f64
    } else {
        seconds * 1e3 / (measured.bytes as f64 / f64::from(1 << 30))
    }
}

fn spread(ratios: &Sample) -> String {
    format!("{:.2} ({:.2} to {:.2})", ratios.median(), ratios.quantile(0.0), ratios.quantile(1.0))
}

fn verdict(ratio: f64) -> &'static str {
    if ratio >= GOAL {
        "reached"
    } else if ratio >= FLOOR {
        "within a tenth"
    } else {
        "missed"
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::workload::WORKLOADS;
    use super::*;

    fn measured(milliseconds: u64, processor: u64) -> Measurement {
        let [time, processor] = [milliseconds, processor].map(Duration::from_millis);
        Measurement { requests: 1000, bytes: 1 << 30, time, processor }
    }

    #[test]
    fn a_row_has_the_medians_and_the_worse_of_both_ratios_counts() {
        let workload = &WORKLOADS[0];
        let mut report = Report::new(&[workload]);
        for time in [900, 1000, 1100] {
            report.add(&[[measured(1000, 100), measured(time, 95)]]);
        }
        let table = report.table();
        assert!(
            table.contains("| 1024 MiB/s | 1024 | 1.00 (0.90 to 1.10) | 100.0 ms per GiB | 95.0 | 0.95"),
            "{table}"
        );
        assert!(table.contains("| within a tenth |"), "{table}");
        assert_eq!(report.json()[0]["rate_ratio"]["count"], 3);
    }

    #[test]
    fn verdicts_have_two_bounds() {
        assert_eq!([verdict(1.0), verdict(0.95), verdict(0.89)], ["reached", "within a tenth", "missed"]);
    }
}
