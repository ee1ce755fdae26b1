//! The benchmarks, what each of them measures, and how much of it in a run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Benchmark {
    /// Starts, from the beginning of a process.
    Start,
    /// Commands, one after the other.
    Exec,
    /// Commands, many at once.
    ExecMany,
    /// Copies of files.
    Files,
    /// The disk, from inside the guest.
    Disk,
    /// Memory of the host for each VM.
    Memory,
    /// Many starts at once.
    Storm,
    /// Shutdown.
    Stop,
}

impl Benchmark {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Exec,
        Self::ExecMany,
        Self::Files,
        Self::Disk,
        Self::Memory,
        Self::Storm,
        Self::Stop,
    ];

    /// Its name at the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Exec => "exec",
            Self::ExecMany => "exec-many",
            Self::Files => "files",
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Storm => "storm",
            Self::Stop => "stop",
        }
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "Cold start",
            Self::Exec => "Running a command",
            Self::ExecMany => "Many commands at once",
            Self::Files => "Copying files",
            Self::Disk => "The disk",
            Self::Memory => "Memory for each machine",
            Self::Storm => "A storm of starts",
            Self::Stop => "Shutdown",
        }
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Benchmark {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|benchmark| benchmark.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|benchmark| benchmark.name()).collect();
            format!("there is no benchmark {name:?}, only {}", names.join(", "))
        })
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
}

/// What is measured, without its measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The benchmark's name, a point, and its own.
    pub id: String,
    /// The benchmark.
    pub benchmark: Benchmark,
    /// What it is, for people.
    pub title: String,
    /// In what it is measured.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// The parts of the measurements that are told and compared: 0.5 is the median.
    pub quantiles: Vec<f64>,
    /// Whether it depends on how quiet the machine is.
    pub timed: bool,
}

impl Measure {
    fn new(benchmark: Benchmark, name: &str, title: impl Into<String>, unit: &str, better: Better) -> Self {
        let quantiles = if benchmark == Benchmark::Exec { vec![0.5, 0.99, 0.999] } else { vec![0.5] };
        Self {
            id: format!("{benchmark}.{name}"),
            benchmark,
            title: title.into(),
            unit: unit.to_owned(),
            better,
            quantiles,
            timed: benchmark != Benchmark::Memory,
        }
    }
}

/// How much of each benchmark is done in a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Commands in a round, one after the other.
    pub(crate) execs: usize,
    /// Commands in a round, and how many of them at once.
    pub(crate) many: (usize, usize),
    /// The large file, in MiB, and how many small ones there are.
    pub(crate) files: (u64, usize),
    /// What is written and read in the guest, in MiB, and the small files that are read in random order.
    pub(crate) disk: (u64, u64),
    /// How many VMs there are at a time when memory is looked at.
    pub(crate) memory: Vec<usize>,
    /// How many start at once.
    pub(crate) storm: usize,
    /// The most rounds of storms, which take long.
    pub(crate) storms: usize,
}

impl Plan {
    /// A whole run, or a short one.
    pub(crate) fn new(quick: bool) -> Self {
        if quick {
            return Self {
                execs: 50,
                many: (64, 16),
                files: (32, 200),
                disk: (32, 200),
                memory: vec![1, 4],
                storm: 4,
                storms: 1,
            };
        }
        Self {
            execs: 200,
            many: (256, 32),
            files: (256, 2000),
            disk: (128, 2000),
            memory: vec![1, 10, 50],
            storm: 50,
            storms: 5,
        }
    }

    /// What a benchmark measures.
    pub(crate) fn measures(&self, benchmark: Benchmark) -> Vec<Measure> {
        let lower = |name: &str, title: &str| Measure::new(benchmark, name, title, "ms", Better::Lower);
        let rate =
            |name: &str, title: &str, unit: &str| Measure::new(benchmark, name, title, unit, Better::Higher);
        match benchmark {
            Benchmark::Start => vec![
                lower("answer", "From the start of a process to the guest's first answer"),
                lower("ready", "To a machine that stays and takes commands"),
                lower("whole", "One command in a new machine, until everything is cleaned up"),
            ],
            Benchmark::Exec => vec![lower("true", "`true` in a machine that runs")],
            Benchmark::ExecMany => {
                let (count, at_once) = self.many;
                vec![rate("rate", &format!("`true` {count} times, {at_once} at once"), "commands/s")]
            }
            Benchmark::Files => {
                let (large, small) = self.files;
                vec![
                    rate("large-in", &format!("A file of {large} MiB into the guest"), "MiB/s"),
                    rate("large-out", "The same file out of it", "MiB/s"),
                    rate("small-in", &format!("{small} small files into the guest"), "files/s"),
                    rate("small-out", "The same files out of it", "files/s"),
                ]
            }
            Benchmark::Disk => {
                let (size, files) = self.disk;
                vec![
                    rate(
                        "write",
                        &format!("Writing {size} MiB in sequence, until they are on the disk"),
                        "MiB/s",
                    ),
                    rate("read", "Reading them in sequence, the guest's cache empty", "MiB/s"),
                    rate(
                        "random",
                        &format!("Reading {files} files of 4 KiB in random order, the guest's cache empty"),
                        "reads/s",
                    ),
                ]
            }
            Benchmark::Memory => self.memory.iter().flat_map(|&count| self.memory_of(count)).collect(),
            Benchmark::Storm => vec![
                lower("answer", &format!("{} started at once: until each one's first answer", self.storm)),
                lower("all", &format!("{} started at once: until all were done and cleaned up", self.storm)),
            ],
            Benchmark::Stop => vec![lower("stop", "Shutting a machine down in order")],
        }
    }

    fn memory_of(&self, count: usize) -> [Measure; 2] {
        let machines =
            if count == 1 { "one machine".to_owned() } else { format!("each of {count} machines") };
        let measure = |name: &str, title: String| {
            Measure::new(Benchmark::Memory, &format!("{count}.{name}"), title, "MiB", Better::Lower)
        };
        [
            measure("private", format!("Private pages, the guest's left out, {machines}")),
            measure("pss", format!("All pages, shared ones in part (PSS), {machines}")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_benchmark_has_a_name_that_is_read_back_and_something_to_measure() {
        for benchmark in Benchmark::ALL {
            assert_eq!(benchmark.name().parse(), Ok(benchmark));
            assert_eq!(serde_json::to_value(benchmark).unwrap(), benchmark.name());
            assert!(!Plan::new(true).measures(benchmark).is_empty());
        }
        let refused = "boot".parse::<Benchmark>().unwrap_err();
        assert!(refused.contains("\"boot\"") && refused.contains("exec-many"), "{refused}");
    }

    #[test]
    fn a_whole_run_has_the_commands_that_its_last_quantile_needs() {
        // One in a thousand, in as many rounds as there are unless somebody says otherwise.
        assert!(Plan::new(false).execs * crate::DEFAULT_ROUNDS >= 1000);
        assert_eq!(Plan::new(false).memory, [1, 10, 50]);
    }
}
