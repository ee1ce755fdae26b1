//! What was measured, and the file that it is kept in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::benchmark::{Benchmark, Measure};
use crate::comparison::{Comparison, compare_subjects};
use crate::host::Host;
use crate::noise::Noise;
use crate::peers::ours;
use crate::statistics::Sample;

/// What the file says of itself.
const SCHEMA: &str = "vmm-bench";

/// The version of the file's format: within it, fields are only added.
const VERSION: u32 = 1;

/// A run of the benchmarks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always `vmm-bench`.
    pub schema: String,
    /// The version of the format.
    pub version: u32,
    /// When it was begun, as `2026-11-22T20:15:00Z`.
    pub date: String,
    /// The machine.
    pub host: Host,
    /// What runs the processors of our VMs.
    pub engine: Option<String>,
    /// How it was run.
    pub settings: RunSettings,
    /// Who was measured, and who was not there; ourselves first.
    pub subjects: Vec<Subject>,
    /// What was measured.
    pub metrics: Vec<Metric>,
    /// What went wrong, or cannot be measured.
    pub incidents: Vec<Incident>,
    /// How quiet the machine was.
    pub noise: Noise,
    /// Why nothing may be concluded of times, if that is so.
    pub objections: Vec<String>,
    /// Ourselves beside each peer.
    pub comparisons: Vec<Comparison>,
}

/// How it was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// Rounds that count; one before them does not.
    pub rounds: usize,
    /// It was a short run.
    pub quick: bool,
    /// The image of our VMs.
    pub image: String,
    /// The kernel with which our VMs were measured again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The processors of each machine.
    pub cpus: u8,
    /// The memory of a machine that is alone, in MiB.
    pub memory_mib: u64,
    /// The memory of machines of which there are many, in MiB.
    pub many_memory_mib: u64,
    /// The benchmarks that were run.
    pub benchmarks: Vec<Benchmark>,
}

/// Somebody to be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// How it is measured.
    pub note: String,
    /// Its version, if it was there.
    pub version: Option<String>,
    /// Otherwise why it was not.
    pub absent: Option<Absent>,
}

/// Why a peer is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Why.
    pub why: String,
    /// How to get it.
    pub get: String,
}

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is.
    #[serde(flatten)]
    pub measure: Measure,
    /// Each single measurement, by subject and round.
    pub samples: BTreeMap<String, Vec<Vec<f64>>>,
}

impl Metric {
    /// All measurements of a subject.
    pub fn sample(&self, subject: &str) -> Option<Sample> {
        let rounds = self.samples.get(subject)?;
        Some(Sample::of_rounds(rounds)).filter(|sample| sample.count() > 0)
    }
}

/// Something that kept a figure from being.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Whose.
    pub subject: String,
    /// Where.
    pub benchmark: Benchmark,
    /// What kind.
    pub kind: IncidentKind,
    /// What happened.
    pub what: String,
}

/// The kinds of incidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// It crashed, hung or failed otherwise.
    Failed,
    /// There is no such thing with this subject.
    Unsupported,
    /// The host has too little memory for all of it.
    CutShort,
}

impl Report {
    pub(crate) fn new(date: String, host: Host, settings: RunSettings) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            version: VERSION,
            date,
            host,
            engine: None,
            settings,
            subjects: Vec::new(),
            metrics: Vec::new(),
            incidents: Vec::new(),
            noise: Noise::default(),
            objections: Vec::new(),
            comparisons: Vec::new(),
        }
    }

    /// Draws the conclusions, when everything was measured.
    pub(crate) fn conclude(&mut self, noise: Noise) {
        self.noise = noise;
        self.objections = self.noise.objections();
        self.comparisons = compare_subjects(self, ours::NAME);
    }

    /// Reads one back. What is no report, or of a later format, is refused.
    pub fn read(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read {place}: {error}"))?;
        Self::parse(&text).map_err(|why| format!("{place} {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
            version: u32,
        }
        let none = "is no report of `vmm bench --json`";
        let head: Head = serde_json::from_str(text).map_err(|error| format!("{none}: {error}"))?;
        if head.schema != SCHEMA {
            return Err(format!("{none}: its schema is {:?}", head.schema));
        }
        if head.version != VERSION {
            return Err(format!("has version {} of the format, and this vmm reads {VERSION}", head.version));
        }
        let report: Self = serde_json::from_str(text).map_err(|error| format!("{none}: {error}"))?;
        let finite =
            |metric: &Metric| metric.samples.values().flatten().flatten().all(|value| value.is_finite());
        if report.metrics.iter().all(finite) {
            Ok(report)
        } else {
            Err(format!("{none}: a measurement is no number"))
        }
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        // Maps have words for keys, and nothing else can fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Those who were measured in this metric, in their order.
    pub fn measured<'a>(&'a self, metric: &'a Metric) -> impl Iterator<Item = (&'a Subject, Sample)> {
        self.subjects.iter().filter_map(|subject| Some((subject, metric.sample(&subject.name)?)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::benchmark::Plan;

    /// A report with these rounds of `start.answer`: ours, and a peer's.
    pub(crate) fn example(ours: &[f64], theirs: &[f64]) -> Report {
        let settings = RunSettings {
            rounds: ours.len(),
            quick: false,
            image: "alpine".to_owned(),
            kernel: None,
            cpus: 1,
            memory_mib: 512,
            many_memory_mib: 256,
            benchmarks: vec![Benchmark::Start],
        };
        let host = Host { processor: Some("<Fast & \"Slow\">".to_owned()), cores: 2, ..Host::default() };
        let mut report = Report::new("2026-11-22T20:15:00Z".to_owned(), host, settings);
        let subject = |name: &str, title: &str, version: Option<&str>| Subject {
            name: name.to_owned(),
            title: title.to_owned(),
            note: String::new(),
            version: version.map(str::to_owned),
            absent: version.is_none().then(|| Absent { why: "it is not here".into(), get: "get it".into() }),
        };
        report.subjects = vec![
            subject("vmm", "vmm", Some("vmm 1")),
            subject("quicksand", "quicksand", Some("2")),
            subject("docker", "Docker", None),
        ];
        let rounds = |values: &[f64]| values.iter().map(|&value| vec![value]).collect::<Vec<_>>();
        let measure = Plan::new(false).measures(Benchmark::Start).remove(0);
        let samples = [("vmm", ours), ("quicksand", theirs)];
        let samples = samples.map(|(name, values)| (name.to_owned(), rounds(values)));
        report.metrics = vec![Metric { measure, samples: BTreeMap::from(samples) }];
        let calibration_ms = vec![10.0, 10.1, 10.2, 10.1];
        report.conclude(Noise { calibration_ms, load_before: Some(0.1), steal: Some(0.0) });
        report
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let report =
            example(&[1000.5, 1001.0, 999.0, 1002.0, 1003.0], &[5000.0, 5001.0, 5002.0, 5003.0, 5004.0]);
        assert_eq!(Report::parse(&report.to_json()).unwrap(), report);
        assert_eq!(report.comparisons.len(), 1);
    }

    #[test]
    fn what_is_no_report_of_ours_is_refused_in_a_line() {
        let report = example(&[1.0], &[2.0]).to_json();
        for (text, why) in [
            ("hello".to_owned(), "is no report"),
            ("{}".to_owned(), "is no report"),
            (report.replace("\"vmm-bench\"", "\"other\""), "its schema is \"other\""),
            (report.replacen("\"version\": 1", "\"version\": 2", 1), "version 2 of the format"),
            (report.replace("\"samples\"", "\"simples\""), "samples"),
        ] {
            let refused = Report::parse(&text).unwrap_err();
            assert!(refused.contains(why) && !refused.contains('\n'), "{refused}");
        }
    }
}
