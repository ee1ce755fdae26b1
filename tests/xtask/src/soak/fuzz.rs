//! Coverage-guided fuzzing: each target of `tests/fuzz` for ten minutes, with libFuzzer.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Suite;
use crate::failure::{Failure, Outcome};
use crate::{command, project, setup};

/// How long each target runs.
const SECONDS: u64 = 600;

/// What makes LLVM tell libFuzzer where the program goes, and the sanitizer watch over memory. Only an unstable
/// compiler takes the last one, or a stable one that is told to.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
];

pub(super) struct Fuzz;

impl Suite for Fuzz {
    fn name(&self) -> &'static str {
        "fuzz"
    }

    fn purpose(&self) -> &'static str {
        "each fuzz target in tests/fuzz for 10 minutes, coverage-guided; or one: --soak fuzz TARGET"
    }

    fn prepare(&self) -> Outcome {
        setup::install_missing(setup::TO_FUZZ)?;
        let mut cargo = project::cargo();
        // With a target named, the flags do not reach what runs at build time.
        cargo
            .current_dir(project::root().join("tests/fuzz"))
            .args(["build", "--release", "--target", &host()?])
            .arg("--target-dir")
            .arg(folder())
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
        command::show(&mut cargo)
    }

    fn pieces(&self) -> Outcome<Vec<String>> {
        let sources = project::root().join("tests/fuzz/src/bin");
        let entries = fs::read_dir(&sources)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", sources.display())))?;
        let mut names: Vec<String> =
            entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn run(&self, target: &str) -> Outcome<String> {
        let corpus = folder().join("corpus").join(target);
        let findings = folder().join("findings").join(target);
        for folder in [&corpus, &findings] {
            fs::create_dir_all(folder)
                .map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
        }
        let mut fuzzer = Command::new(folder().join(host()?).join("release").join(target));
        fuzzer.arg(&corpus);
        let seeds = project::root().join("tests/fuzz/seeds").join(target);
        if seeds.is_dir() {
            fuzzer.arg(seeds);
        }
        fuzzer
            .arg(format!("-max_total_time={SECONDS}"))
            .arg(format!("-artifact_prefix={}/", findings.display()));
        fuzzer.args(["-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        let output = fuzzer
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failure::new(format!("cannot start {target}: {error}")))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(format!("no finding, {}", statistics(&said)));
        }
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n");
        Err(Failure::new(format!("a finding: see {}", findings.display())).hint(tail))
    }
}

/// What libFuzzer says at its end: how often it ran the target, and how much of it was reached.
fn statistics(said: &str) -> String {
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let after = |line: &str, word: &str| {
        let mut words = line.split_whitespace();
        words.find(|found| *found == word).and_then(|_| words.next().map(str::to_owned))
    };
    let covered = said.lines().rev().find_map(|line| after(line, "cov:"));
    format!("{} runs, {} edges", runs.map_or("?", str::trim), covered.as_deref().unwrap_or("?"))
}

/// Where the fuzzers are built, and keep what they learned.
fn folder() -> PathBuf {
    project::target().join("fuzz")
}

/// The triple of this machine.
fn host() -> Outcome<String> {
    let said = command::output("rustc", &["-vV"]).unwrap_or_default();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Failure::new("`rustc -vV` does not say what machine this is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_a_fuzzer_says_how_far_it_came() {
        let said = "#2\tINITED cov: 11 ft: 12 corp: 1/1b\n#9\tDONE   cov: 345 ft: 500\nstat::number_of_executed_units: 123456\n";
        assert_eq!(statistics(said), "123456 runs, 345 edges");
        assert_eq!(statistics(""), "? runs, ? edges");
    }
}
