//! The comparison: rounds of both subjects in turn, so that what the machine does meanwhile meets both.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::host;
use crate::sample::{Ratio, Sample};
use crate::subject::{self, Round};

/// How many times sooner than the peer a VM is to be ready.
const BOOT_GOAL: f64 = 3.5;

/// How long a command in a VM that runs may take, in milliseconds.
const EXEC_GOAL_MS: f64 = 6.0;

/// The monitor's own memory, in MiB.
const MONITOR_GOAL_MIB: f64 = 24.0;

/// What is compared, and how long.
pub(crate) struct Comparison {
    pub(crate) python: PathBuf,
    pub(crate) script: PathBuf,
    pub(crate) json: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) commands: usize,
}

pub(crate) fn run(comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let host = host::describe();
    println!("{}", host::line(&host));
    let ourselves = std::env::current_exe()?;
    let commands = comparison.commands.to_string();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // A round before the first: neither pays for cold caches.
    for round in 0..=comparison.rounds {
        let our = subject::run(Command::new(&ourselves).args(["one", &commands]))?;
        let their = subject::run(Command::new(&comparison.python).arg(&comparison.script).arg(&commands))?;
        println!("round {round}: ready after {:.0} and {:.0} ms", our.ready_ms, their.ready_ms);
        if round > 0 {
            ours.push(our);
            theirs.push(their);
        }
    }
    let result = Measured::of(&ours, &theirs);
    println!("\n{}", result.table());
    let report = json!({ "host": host, "measured": result.json() });
    fs::write(&comparison.json, serde_json::to_string_pretty(&report)?)?;
    println!("written to {}", comparison.json.display());
    Ok(())
}

/// What was measured of both.
struct Measured {
    ready: [Sample; 2],
    exec: [Sample; 2],
    monitor_mib: Sample,
    engine_mib: Sample,
}

impl Measured {
    fn of(ours: &[Round], theirs: &[Round]) -> Self {
        let each = |rounds: &[Round], value: &dyn Fn(&Round) -> Vec<f64>| {
            Sample::new(rounds.iter().flat_map(value).collect())
        };
        let both = |value: &dyn Fn(&Round) -> Vec<f64>| [each(ours, value), each(theirs, value)];
        let mebibytes = |kib: Option<f64>| kib.map(|kib| kib / 1024.0).into_iter().collect();
        Self {
            ready: both(&|round| vec![round.ready_ms]),
            exec: both(&|round| round.exec_ms.clone()),
            monitor_mib: each(ours, &|round| mebibytes(round.monitor_kib)),
            engine_mib: each(ours, &|round| mebibytes(round.engine_kib)),
        }
    }

    fn table(&self) -> String {
        let ready = Ratio::of(&self.ready[1], &self.ready[0]);
        let exec = Ratio::of(&self.exec[1], &self.exec[0]);
        let boot_verdict = ready.reaches(BOOT_GOAL);
        let exec_verdict = Some(self.exec[0].median() <= EXEC_GOAL_MS);
        let memory_verdict = Some(self.monitor_mib.quantile(1.0) <= MONITOR_GOAL_MIB);
        let ratio = |ratio: Ratio| format!("{:.2} ({:.2} to {:.2})", ratio.ratio, ratio.low, ratio.high);
        format!(
            "| | vmm | quicksand | times sooner | goal |\n|---|---|---|---|---|\n\
             | from process start to ready, ms | {} | {} | {} | {BOOT_GOAL} times sooner: {} |\n\
             | `true` in a VM that runs, ms | {} | {} | {} | {EXEC_GOAL_MS} ms: {} |\n\
             | the monitor's own memory, MiB | {} | | | {MONITOR_GOAL_MIB} MiB: {} |\n\
             | QEMU's own memory, MiB | {} | | | |\n\n\
             Medians, with the middle half of the measurements; {} rounds in turn, {} commands each way.\n",
            spread(&self.ready[0]),
            spread(&self.ready[1]),
            ratio(ready),
            verdict(boot_verdict),
            spread(&self.exec[0]),
            spread(&self.exec[1]),
            ratio(exec),
            verdict(exec_verdict),
            spread(&self.monitor_mib),
            verdict(memory_verdict),
            spread(&self.engine_mib),
            self.ready[0].count(),
            self.exec[0].count(),
        )
    }

    fn json(&self) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "median": sample.median(), "first_quartile": sample.quantile(0.25),
                "third_quartile": sample.quantile(0.75), "least": sample.quantile(0.0),
                "most": sample.quantile(1.0), "count": sample.count(),
            })
        };
        let ratio = |[ours, theirs]: &[Sample; 2]| {
            let ratio = Ratio::of(theirs, ours);
            json!({ "ratio": ratio.ratio, "low": ratio.low, "high": ratio.high })
        };
        json!({
            "ready_ms": { "vmm": sample(&self.ready[0]), "peer": sample(&self.ready[1]), "ratio": ratio(&self.ready) },
            "exec_ms": { "vmm": sample(&self.exec[0]), "peer": sample(&self.exec[1]), "ratio": ratio(&self.exec) },
            "monitor_mib": sample(&self.monitor_mib),
            "engine_mib": sample(&self.engine_mib),
        })
    }
}

fn spread(sample: &Sample) -> String {
    let digits = if sample.median() >= 100.0 { 0 } else { 1 };
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        sample.median(),
        sample.quantile(0.25),
        sample.quantile(0.75)
    )
}

fn verdict(reached: Option<bool>) -> &'static str {
    match reached {
        Some(true) => "reached",
        Some(false) => "missed",
        None => "within the noise, no verdict",
    }
}
