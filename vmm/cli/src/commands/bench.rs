//! `vmm bench`: the benchmarks, ours beside other people's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use vmm::{CancelToken, Home};
use vmm_benches::{
    Benchmark, Changes, DEFAULT_ROUNDS, OURSELVES, QUICK_ROUNDS, Report, Settings, Trouble, page, table,
};

use super::{print, print_json, run};
use crate::error::Failure;
use crate::sanitise;
use crate::signals::SignalForwarder;

/// What is slower.
const SLOWER: u8 = 1;

/// The most rounds that make sense.
const MAX_ROUNDS: u16 = 1000;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Action {
    /// Compare a run with an earlier one, metric by metric
    Compare(Compare),
    /// Show a run again: the table, a page, a chart
    Show(Show),
}

#[derive(Args)]
struct Measure {
    /// What to measure: start, exec, exec-many, files, disk, memory, storm, stop (default: all)
    #[arg(value_name = "NAME")]
    benchmarks: Vec<Benchmark>,
    /// How many rounds count (default: 10, with --quick 5); one before them does not
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: Option<u16>,
    /// Peers to measure beside us, separated by commas, or none (default: those that are there)
    #[arg(long, value_name = "LIST")]
    peers: Option<String>,
    /// Where the program of a peer is, as in firecracker=/opt/firecracker; of quicksand a Python that has it
    #[arg(long = "peer", value_name = "NAME=PATH")]
    programs: Vec<String>,
    /// Write all measurements into a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// The image of our VMs
    #[arg(long, value_name = "IMAGE", default_value = "alpine")]
    image: String,
    /// Measure our VMs once more with this kernel: a file, or one of `vmm kernel list`
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Do less of everything
    #[arg(long)]
    quick: bool,
}

#[derive(Args)]
struct Compare {
    /// The earlier run, as --json wrote it
    before: PathBuf,
    /// The later run
    after: PathBuf,
    /// End with status 1 if something of ours became worse, beyond the noise
    #[arg(long)]
    fail_on_slower: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Show {
    /// The run, as --json wrote it
    report: PathBuf,
    /// Write a page with plots, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write a chart of the first figures, for a README
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Bench {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        match self.action {
            Some(Action::Compare(command)) => command.run(),
            Some(Action::Show(command)) => command.run(),
            None => self.measure.run(quiet),
        }
    }
}

impl Measure {
    fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        // A file that cannot be written is told now, and not after an hour.
        for file in self.json.iter().chain(&self.html) {
            Partial::of(file)?;
        }
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let rounds = self.rounds.map_or(if self.quick { QUICK_ROUNDS } else { DEFAULT_ROUNDS }, usize::from);
        let settings = Settings {
            benchmarks: self.benchmarks,
            rounds,
            quick: self.quick,
            image: self.image,
            kernel: self.kernel,
            peers: self.peers.as_deref().map(peers).transpose()?,
            programs: programs(&self.programs)?,
            ..Settings::new(std::env::current_exe()?, home, token)
        };
        let tell = |line: &str| {
            if !quiet {
                sanitise::say(line);
            }
        };
        let report = match vmm_benches::run(&settings, &tell) {
            Err(Trouble::Cancelled) => return Ok(run::cancelled(&signals)),
            report => report.map_err(|trouble| Failure::usage(trouble.to_string()))?,
        };
        // First: what cannot be written must not lose what was measured.
        print(&sanitise::text(&table::of(&report)))?;
        if let Some(file) = &self.json {
            write(file, &report.to_json())?;
        }
        if let Some(file) = &self.html {
            write(file, &page::of(&report))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Compare {
    fn run(self) -> Result<ExitCode, Failure> {
        let changes = Changes::between(&read(&self.before)?, &read(&self.after)?);
        if self.json {
            print_json(&changes)?;
        } else {
            print(&sanitise::text(&table::of_changes(&changes)))?;
        }
        let slower = self.fail_on_slower && changes.has_become_worse(OURSELVES);
        Ok(if slower { ExitCode::from(SLOWER) } else { ExitCode::SUCCESS })
    }
}

impl Show {
    fn run(self) -> Result<ExitCode, Failure> {
        let report = read(&self.report)?;
        if let Some(file) = &self.html {
            write(file, &page::of(&report))?;
        }
        if let Some(file) = &self.svg {
            write(file, &page::chart(&report))?;
        }
        print(&sanitise::text(&table::of(&report)))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read(file: &Path) -> Result<Report, Failure> {
    Report::read(file).map_err(Failure::usage)
}

/// The peers in a list.
fn peers(list: &str) -> Result<Vec<String>, Failure> {
    if list == "none" {
        return Ok(Vec::new());
    }
    list.split(',').map(|name| known(name.trim()).map(str::to_owned)).collect()
}

fn known(name: &str) -> Result<&str, Failure> {
    let names = vmm_benches::peer_names();
    if names.contains(&name) {
        return Ok(name);
    }
    Err(Failure::usage(format!("there is no peer {name:?}"))
        .with_hint(format!("those that vmm knows are {}", names.join(", "))))
}

/// The programs of peers.
fn programs(given: &[String]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let read = |text: &String| {
        let (name, path) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("{text:?} names no program"))
                .with_hint("write --peer firecracker=/opt/firecracker")
        })?;
        let path = std::path::absolute(path)?;
        if !path.is_file() {
            return Err(Failure::usage(format!("there is no program {} for --peer {name}", path.display())));
        }
        Ok((known(name)?.to_owned(), path))
    };
    given.iter().map(read).collect()
}

/// A file that is being written; what was there stays until it is whole.
struct Partial<'a> {
    file: &'a Path,
    partial: PathBuf,
}

impl<'a> Partial<'a> {
    /// Begins it.
    fn of(file: &'a Path) -> Result<Self, Failure> {
        let name =
            file.file_name().ok_or_else(|| Failure::usage(format!("{} names no file", file.display())))?;
        let mut name = name.to_owned();
        name.push(".partial");
        let partial = file.with_file_name(name);
        fs::write(&partial, "").map_err(|error| cannot_write(file, &error))?;
        Ok(Self { file, partial })
    }

    fn finish(&self, text: &str) -> Result<(), Failure> {
        let written = fs::write(&self.partial, text).and_then(|()| fs::rename(&self.partial, self.file));
        written.map_err(|error| cannot_write(self.file, &error))
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        // It is not there any more if it was finished.
        let _ = fs::remove_file(&self.partial);
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    Partial::of(file)?.finish(text)
}

fn cannot_write(file: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot write {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_and_others_refused_with_those_that_there_are() {
        assert_eq!(peers("none").unwrap(), Vec::<String>::new());
        assert_eq!(peers("docker, quicksand").unwrap(), ["docker", "quicksand"]);
        let refused = peers("qemu").unwrap_err().to_string();
        assert!(refused.contains("there is no peer \"qemu\""), "{refused}");
        assert!(programs(&["firecracker".to_owned()]).is_err());
        assert!(programs(&["firecracker=/nothing/there".to_owned()]).is_err());
        assert_eq!(programs(&["docker=/bin/sh".to_owned()]).unwrap()["docker"], Path::new("/bin/sh"));
    }
}
