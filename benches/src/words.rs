//! Figures and verdicts in words, for the table and the page alike.

use crate::benchmark::Measure;
use crate::comparison::{Comparison, Verdict, is_known};
use crate::report::Report;
use crate::statistics::Sample;

/// A figure with three digits that matter, or more where the point is further to the right.
pub(crate) fn figure(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// The name of a quantile: `median`, `p99`, `p99.9`.
pub(crate) fn quantile(part: f64) -> String {
    if part == 0.5 { "median".to_owned() } else { format!("p{}", (part * 1000.0).round() / 10.0) }
}

/// A quantile of a sample; the median with the middle half.
pub(crate) fn spread(sample: &Sample, part: f64) -> String {
    if !is_known(sample, part) {
        return "too few".to_owned();
    }
    let middle = figure(sample.quantile(part));
    if part != 0.5 || sample.count() == 1 {
        return middle;
    }
    format!("{middle} ({} to {})", figure(sample.quantile(0.25)), figure(sample.quantile(0.75)))
}

/// What is said of who is better, and of who is worse.
fn adverbs(measure: &Measure) -> [&'static str; 2] {
    match measure.unit.as_str() {
        "ms" => ["sooner", "later"],
        "MiB" => ["less", "more"],
        _ => ["faster", "slower"],
    }
}

/// How many times, without digits that nobody needs.
pub(crate) fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

/// What can be said of ourselves beside a peer, in a sentence.
pub(crate) fn sentence(report: &Report, measure: &Measure, comparison: &Comparison) -> String {
    let title = report.subjects.iter().find(|subject| subject.name == comparison.peer);
    let peer = title.map_or(comparison.peer.as_str(), |subject| subject.title.as_str());
    let part = if measure.quantiles.len() > 1 {
        format!("{}: ", quantile(comparison.quantile))
    } else {
        String::new()
    };
    let [sooner, later] = adverbs(measure);
    let ratio = comparison.times_better;
    match comparison.verdict {
        Verdict::Better => format!(
            "{part}vmm {} times {sooner} than {peer} ({} to {})",
            times(ratio.ratio),
            times(ratio.low),
            times(ratio.high)
        ),
        Verdict::Worse => format!(
            "{part}vmm {} times {later} than {peer} ({} to {})",
            times(1.0 / ratio.ratio),
            times(1.0 / ratio.high),
            times(1.0 / ratio.low)
        ),
        Verdict::TooFewRounds | Verdict::TooNoisy => {
            let why = comparison.verdict.why_none().unwrap_or_default();
            format!("{part}no winner between vmm and {peer}: {why}")
        }
        verdict @ Verdict::WithinNoise => format!(
            "{part}no winner between vmm and {peer}: {} ({} to {} times {sooner})",
            verdict.why_none().unwrap_or_default(),
            times(ratio.low),
            times(ratio.high)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    fn said(ours: &[f64], theirs: &[f64]) -> String {
        let report = example(ours, theirs);
        sentence(&report, &report.metrics[0].measure, &report.comparisons[0])
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([1234.56, 12.345, 1.2345].map(figure), ["1235", "12.3", "1.23"]);
        assert_eq!([0.5, 0.99, 0.999].map(quantile), ["median", "p99", "p99.9"]);
        assert_eq!(spread(&Sample::new(vec![1.0, 2.0, 3.0]), 0.5), "2.00 (1.50 to 2.50)");
        assert_eq!(spread(&Sample::new(vec![1.0; 20]), 0.999), "too few");
    }

    #[test]
    fn a_sentence_names_the_winner_or_why_there_is_none() {
        let (fast, slow) = ([1000.0; 5], [4000.0; 5]);
        assert_eq!(said(&fast, &slow), "vmm 4.00 times sooner than quicksand (4.00 to 4.00)");
        assert_eq!(said(&slow, &fast), "vmm 4.00 times later than quicksand (4.00 to 4.00)");
        assert!(said(&fast, &fast).starts_with("no winner between vmm and quicksand: within the noise"));
        assert!(said(&fast[..2], &slow[..2]).contains("too few rounds to tell"));
    }
}
