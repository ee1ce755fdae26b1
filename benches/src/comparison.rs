//! Who is better, and whether that can be said at all: ourselves beside each peer, and two runs beside each other.

use serde::{Deserialize, Serialize};

use crate::benchmark::Better;
use crate::report::{Metric, Report};
use crate::statistics::{Ratio, Sample};

/// With fewer rounds on either side, any order of theirs comes by chance too often.
const MIN_ROUNDS: usize = 5;

/// How much larger one must be in the least for anybody to care.
const MATTERS: f64 = 1.02;

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The first is better.
    Better,
    /// The first is worse.
    Worse,
    /// The difference is within the noise, or too small to matter.
    WithinNoise,
    /// There were too few rounds to tell.
    TooFewRounds,
    /// The machine was too noisy to tell.
    TooNoisy,
}

impl Verdict {
    fn of(ratio: Ratio, rounds: usize, quiet: bool) -> Self {
        if !quiet {
            Self::TooNoisy
        } else if rounds < MIN_ROUNDS {
            Self::TooFewRounds
        } else if ratio.low > 1.0 && ratio.ratio >= MATTERS {
            Self::Better
        } else if ratio.high < 1.0 && ratio.ratio <= 1.0 / MATTERS {
            Self::Worse
        } else {
            Self::WithinNoise
        }
    }

    /// Why there is no winner, if there is none.
    pub fn why_none(self) -> Option<&'static str> {
        match self {
            Self::Better | Self::Worse => None,
            Self::WithinNoise => Some("within the noise"),
            Self::TooFewRounds => Some("too few rounds to tell"),
            Self::TooNoisy => Some("the machine is too noisy to tell"),
        }
    }
}

/// Ourselves beside a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was measured.
    pub metric: String,
    /// The part of the measurements that is compared.
    pub quantile: f64,
    /// The peer.
    pub peer: String,
    /// How many times better we are, and between what that lies.
    #[serde(flatten)]
    pub times_better: Ratio,
    /// What can be said.
    pub verdict: Verdict,
}

/// How many times better the first is, by a quantile.
fn times_better(better: Better, first: &[Vec<f64>], second: &[Vec<f64>], quantile: f64) -> Ratio {
    match better {
        Better::Lower => Ratio::of_rounds(second, first, quantile),
        Better::Higher => Ratio::of_rounds(first, second, quantile),
    }
}

/// Whether there is enough for a quantile: half of a measurement at least must lie beyond it.
pub(crate) fn is_known(sample: &Sample, quantile: f64) -> bool {
    sample.count() as f64 * (1.0 - quantile) >= 0.5
}

pub(crate) fn compare_subjects(report: &Report, ourselves: &str) -> Vec<Comparison> {
    let quiet = report.objections.is_empty();
    let mut comparisons = Vec::new();
    for metric in &report.metrics {
        let Some(ours) = metric.samples.get(ourselves) else { continue };
        for subject in report.subjects.iter().filter(|subject| subject.name != ourselves) {
            let Some(theirs) = metric.samples.get(&subject.name) else { continue };
            for &quantile in &metric.measure.quantiles {
                let Some((ratio, rounds)) = weigh(metric, ours, theirs, quantile) else { continue };
                comparisons.push(Comparison {
                    metric: metric.measure.id.clone(),
                    quantile,
                    peer: subject.name.clone(),
                    times_better: ratio,
                    verdict: Verdict::of(ratio, rounds, quiet || !metric.measure.timed),
                });
            }
        }
    }
    comparisons
}

/// How many times better the first is, and how many rounds say so.
fn weigh(metric: &Metric, first: &[Vec<f64>], second: &[Vec<f64>], quantile: f64) -> Option<(Ratio, usize)> {
    let known = |rounds: &[Vec<f64>]| is_known(&Sample::of_rounds(rounds), quantile);
    if !known(first) || !known(second) {
        return None;
    }
    let ratio = times_better(metric.measure.better, first, second, quantile);
    let finite = ratio.ratio.is_finite() && ratio.low.is_finite() && ratio.high.is_finite();
    finite.then_some((ratio, first.len().min(second.len())))
}

/// A metric of two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What was measured.
    pub metric: String,
    /// The part of the measurements that is compared.
    pub quantile: f64,
    /// Whose.
    pub subject: String,
    /// In what it is measured.
    pub unit: String,
    /// What it was.
    pub before: f64,
    /// What it is.
    pub after: f64,
    /// How many times better the later one is, and between what that lies.
    #[serde(flatten)]
    pub times_better: Ratio,
    /// What can be said of the later one.
    pub verdict: Verdict,
}

/// Two runs beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changes {
    /// What both have measured.
    pub changes: Vec<Change>,
    /// Why they cannot be compared as they are, a sentence each.
    pub caveats: Vec<String>,
}

impl Changes {
    /// Compares a run with an earlier one.
    pub fn between(before: &Report, after: &Report) -> Self {
        let mut caveats = Vec::new();
        let mut caveat = |same: bool, what: String| {
            if !same {
                caveats.push(what);
            }
        };
        let machine = |report: &Report| {
            let host = &report.host;
            (host.processor.clone(), host.arch.clone(), host.cores, host.memory_mib)
        };
        caveat(machine(before) == machine(after), "they were measured on different machines".to_owned());
        caveat(
            before.host.kernel == after.host.kernel,
            format!("the hosts' kernels differ: {:?} and {:?}", before.host.kernel, after.host.kernel),
        );
        caveat(
            before.engine == after.engine,
            format!("the engines differ: {:?} and {:?}", before.engine, after.engine),
        );
        let quiet = before.objections.is_empty() && after.objections.is_empty();
        caveat(quiet, "at least one of them was measured on a machine too noisy to conclude".to_owned());
        let mut changes = Vec::new();
        for metric in &after.metrics {
            // What is done in it must be the same, which its title tells: so many files, so large.
            let earlier = before.metrics.iter().find(|earlier| earlier.measure == metric.measure);
            for (subject, second) in &metric.samples {
                let Some(first) = earlier.and_then(|earlier| earlier.samples.get(subject)) else { continue };
                for &quantile in &metric.measure.quantiles {
                    let Some((ratio, rounds)) = weigh(metric, second, first, quantile) else { continue };
                    let value = |rounds: &[Vec<f64>]| Sample::of_rounds(rounds).quantile(quantile);
                    changes.push(Change {
                        metric: metric.measure.id.clone(),
                        quantile,
                        subject: subject.clone(),
                        unit: metric.measure.unit.clone(),
                        before: value(first),
                        after: value(second),
                        times_better: ratio,
                        verdict: Verdict::of(ratio, rounds, quiet || !metric.measure.timed),
                    });
                }
            }
        }
        Self { changes, caveats }
    }

    /// Whether something of ours has become worse, beyond the noise.
    pub fn has_become_worse(&self, ourselves: &str) -> bool {
        self.changes.iter().any(|change| change.subject == ourselves && change.verdict == Verdict::Worse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    const FAST: [f64; 6] = [1000.0, 1010.0, 990.0, 1005.0, 995.0, 1002.0];
    const SLOW: [f64; 6] = [5000.0, 5010.0, 4990.0, 5005.0, 4995.0, 5002.0];

    #[test]
    fn a_clear_winner_is_named_with_how_many_times() {
        let report = example(&FAST, &SLOW);
        let [comparison] = report.comparisons.as_slice() else { panic!("{:?}", report.comparisons) };
        assert_eq!(comparison.verdict, Verdict::Better);
        assert!((4.9..5.1).contains(&comparison.times_better.ratio), "{comparison:?}");
        assert_eq!(example(&SLOW, &FAST).comparisons[0].verdict, Verdict::Worse);
    }

    #[test]
    fn nobody_wins_within_the_noise() {
        let noisy = [900.0, 1400.0, 1000.0, 700.0, 1200.0, 950.0];
        assert_eq!(example(&FAST, &noisy).comparisons[0].verdict, Verdict::WithinNoise);
        // Surely better, and by nothing that matters.
        let hardly = FAST.map(|value| value * 1.01);
        assert_eq!(
            example(&[1000.0; 6], &hardly.map(|_| 1010.0)).comparisons[0].verdict,
            Verdict::WithinNoise
        );
    }

    #[test]
    fn few_rounds_or_a_noisy_machine_give_no_verdict_however_clear_it_looks() {
        assert_eq!(example(&FAST[..4], &SLOW[..4]).comparisons[0].verdict, Verdict::TooFewRounds);
        let mut report = example(&FAST, &SLOW);
        let mut noise = report.noise.clone();
        noise.calibration_ms = vec![10.0, 15.0, 20.0, 30.0];
        report.conclude(noise);
        assert_eq!(report.comparisons[0].verdict, Verdict::TooNoisy);
    }

    #[test]
    fn two_runs_are_compared_by_metric() {
        let (before, after) = (example(&FAST, &SLOW), example(&FAST.map(|value| value * 1.5), &SLOW));
        let changes = Changes::between(&before, &after);
        let ours = changes.changes.iter().find(|change| change.subject == "vmm").unwrap();
        assert_eq!(ours.verdict, Verdict::Worse);
        assert!((ours.times_better.ratio - 1.0 / 1.5).abs() < 0.01, "{ours:?}");
        assert!(changes.has_become_worse("vmm") && !changes.has_become_worse("quicksand"));
        assert!(changes.caveats.is_empty(), "{:?}", changes.caveats);
        assert!(!Changes::between(&after, &before).has_become_worse("vmm"));
        assert!(!Changes::between(&before, &before).has_become_worse("vmm"));
    }

    #[test]
    fn different_machines_are_said_to_be_different() {
        let (before, mut after) = (example(&FAST, &SLOW), example(&FAST, &SLOW));
        after.host.cores = 64;
        after.engine = Some("kvm".to_owned());
        let caveats = Changes::between(&before, &after).caveats;
        assert!(caveats.len() == 2 && caveats[0].contains("different machines"), "{caveats:?}");
    }

    #[test]
    fn a_quantile_needs_measurements_beyond_it() {
        let sample = |count| Sample::new(vec![1.0; count]);
        assert!(is_known(&sample(1), 0.5) && is_known(&sample(500), 0.999));
        assert!(!is_known(&sample(40), 0.99) && !is_known(&sample(400), 0.999));
    }
}
