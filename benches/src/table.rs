//! Reports as text for a terminal.

use std::fmt::Write;

use crate::comparison::{Changes, Verdict};
use crate::report::{IncidentKind, Report};
use crate::words;

/// A run: a table of the medians, what can be concluded, and what went wrong.
pub fn of(report: &Report) -> String {
    let mut text = format!(
        "{}\nengine: {}, image: {}, rounds in turn: {}{}\n",
        report.host,
        report.engine.as_deref().unwrap_or("?"),
        report.settings.image,
        report.settings.rounds,
        if report.settings.quick { ", quick" } else { "" }
    );
    let here: Vec<_> = report.subjects.iter().filter(|subject| subject.absent.is_none()).collect();
    let mut rows = vec![vec![String::new(), String::new()]];
    rows[0].extend(here.iter().map(|subject| subject.title.clone()));
    for metric in &report.metrics {
        for &part in &metric.measure.quantiles {
            let name = match part {
                0.5 => metric.measure.id.clone(),
                part => format!("{} {}", metric.measure.id, words::quantile(part)),
            };
            let cells = here.iter().map(|subject| {
                let sample = metric.sample(&subject.name);
                sample.map_or_else(|| "-".to_owned(), |sample| words::spread(&sample, part))
            });
            rows.push([name, metric.measure.unit.clone()].into_iter().chain(cells).collect());
        }
    }
    text.push('\n');
    text += &columns(&rows);
    text += "\nMedians, with the middle half of the measurements.\n";
    if !report.comparisons.is_empty() {
        text.push('\n');
    }
    for comparison in &report.comparisons {
        let Some(metric) = report.metrics.iter().find(|metric| metric.measure.id == comparison.metric) else {
            continue;
        };
        let sentence = words::sentence(report, &metric.measure, comparison);
        let _never_fails = writeln!(text, "{}: {sentence}", comparison.metric);
    }
    for objection in &report.objections {
        let _never_fails = writeln!(text, "too noisy to conclude: {objection}");
    }
    for incident in &report.incidents {
        let kind = match incident.kind {
            IncidentKind::Failed => "failed",
            IncidentKind::Unsupported => "not measured",
            IncidentKind::CutShort => "cut short",
        };
        let _never_fails =
            writeln!(text, "{}, {}: {kind}: {}", incident.subject, incident.benchmark, incident.what);
    }
    for subject in &report.subjects {
        if let Some(absent) = &subject.absent {
            let _never_fails = writeln!(text, "{} is absent: {}; {}", subject.title, absent.why, absent.get);
        }
    }
    text
}

/// Two runs beside each other.
pub fn of_changes(changes: &Changes) -> String {
    let mut rows = vec![["", "", "", "before", "after", "times better", ""].map(str::to_owned).to_vec()];
    for change in &changes.changes {
        let ratio = change.times_better;
        let verdict = match change.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            verdict => verdict.why_none().unwrap_or_default(),
        };
        rows.push(vec![
            format!("{} {}", change.metric, words::quantile(change.quantile)),
            change.unit.clone(),
            change.subject.clone(),
            words::figure(change.before),
            words::figure(change.after),
            format!("{:.2} ({:.2} to {:.2})", ratio.ratio, ratio.low, ratio.high),
            verdict.to_owned(),
        ]);
    }
    let mut text = columns(&rows);
    if changes.changes.is_empty() {
        text = "the two have measured nothing in common\n".to_owned();
    }
    for caveat in &changes.caveats {
        let _never_fails = writeln!(text, "caution: {caveat}");
    }
    text
}

/// Rows in columns, each as wide as its widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += cell;
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_table_has_the_figures_the_verdict_and_who_is_absent() {
        let text = of(&example(&[1000.0; 5], &[4000.0; 5]));
        assert!(text.contains("start.answer  ms  1000 (1000 to 1000)  4000 (4000 to 4000)\n"), "{text}");
        assert!(text.contains("start.answer: vmm 4.00 times sooner than quicksand"), "{text}");
        assert!(text.contains("Docker is absent: it is not here; get it"), "{text}");
    }

    #[test]
    fn two_runs_are_a_table_with_verdicts() {
        let (before, after) = (example(&[1000.0; 5], &[4000.0; 5]), example(&[2000.0; 5], &[4000.0; 5]));
        let text = of_changes(&Changes::between(&before, &after));
        let worse = text.lines().find(|line| line.contains("  vmm  ")).unwrap();
        assert!(
            worse.contains("1000") && worse.contains("0.50 (0.50 to 0.50)") && worse.ends_with("worse"),
            "{text}"
        );
        let none = Changes { changes: Vec::new(), caveats: vec!["they differ".to_owned()] };
        assert_eq!(of_changes(&none), "the two have measured nothing in common\ncaution: they differ\n");
    }
}
