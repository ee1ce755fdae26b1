//! `cargo lab test`: the system tests, each in a laboratory of its own, which has done nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use laboratory::PROGRAMS;

use super::kept::make_folder;
use super::{Laboratory, lock, order};
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::steps::Steps;
use crate::verify::build::{TestBinary, system_test, test_binaries};
use crate::verify::pool::{KERNELS, Test, cores, run_each, select, workers};
use crate::verify::report::Report;

/// No test of ours takes nearly so long, even here: one that does hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// What a laboratory takes of this machine's memory at most, in KiB.
const MEMORY: u64 = 4 << 20;

/// The tests of the laboratory itself. Where they fail, the others say nothing. Elsewhere they have nothing to test.
pub(crate) const SELF_TEST: &str = "tests::laboratory";

/// The engine under test.
const ENGINE: &str = "kvm";

/// What the tests start beside `vmm`, and Alpine does not have.
const TOOLS: [&str; 1] = ["qemu-img"];

/// Builds the tests and runs them, or those with the filter in their names.
pub(super) fn run(filter: Option<&str>) -> Outcome {
    let mut steps = Steps::new();
    let binaries = steps.step("build the tests", test_binaries)?;
    let suite = steps.step("prepare the laboratory", || Suite::prepare(&binaries, filter))?;
    let report = suite.map_or_else(|| Ok(Report::default()), |suite| suite.run(&mut steps, filter))?;
    println!("\n{report}\nWhat took how long:\n{}\n", steps.summary());
    println!("lab: {}", report.closing_line());
    match report.failed() {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} tests failed in the laboratory"))),
    }
}

/// The laboratory with those of the tests in it that are for it.
pub(crate) struct Suite {
    laboratory: Laboratory,
    own: Vec<TestBinary>,
    others: Vec<TestBinary>,
}

impl Suite {
    /// Makes it. `None`: of the tests with the filter in their names, none is for it.
    pub(crate) fn prepare(binaries: &[TestBinary], filter: Option<&str>) -> Outcome<Option<Self>> {
        let binaries: Vec<TestBinary> =
            binaries.iter().filter(|binary| binary.is_for_every_engine()).cloned().collect();
        if select(&binaries, filter, ENGINE)?.is_empty() {
            return Ok(None);
        }
        let (own, others): (Vec<_>, Vec<_>) =
            binaries.into_iter().partition(|binary| binary.name == SELF_TEST);
        let laboratory = prepare(own.iter().chain(&others))?;
        Ok(Some(Self { laboratory, own, others }))
    }

    /// Runs those with the filter in their names.
    pub(crate) fn run(&self, steps: &mut Steps, filter: Option<&str>) -> Outcome<Report> {
        let mut report = steps.step("the laboratory itself", || run_in(&self.laboratory, &self.own, None))?;
        if report.failed() == 0 {
            report.add(steps.step("system tests on KVM, in the laboratory", || {
                run_in(&self.laboratory, &self.others, filter)
            })?);
        }
        Ok(report)
    }
}

/// Runs one test that repeats itself for so long in a laboratory of its own; gives what it printed.
pub(crate) fn run_test(program: &str, function: &str, time: Duration) -> Outcome<String> {
    let binary = system_test(program)?;
    let laboratory = prepare([&binary])?;
    let test = Test { binary: &binary, function: function.to_owned() };
    match run_one(&laboratory, &test, Some(time)) {
        (true, said) => Ok(said),
        (false, said) => Err(Failure::new(format!("{} failed", test.name())).hint(said)),
    }
}

/// A laboratory with these tests.
fn prepare<'a>(binaries: impl IntoIterator<Item = &'a TestBinary>) -> Outcome<Laboratory> {
    let _locked = lock()?;
    let tests = binaries.into_iter().map(|test| (name(test), test.path.clone()));
    let tools = TOOLS.iter().filter_map(|tool| Some((PathBuf::from(tool), command::find(tool)?)));
    Laboratory::prepare(tests.chain(tools).chain(kernels()?))
}

/// What is in the folder of kernels of the home that tests are told of, if they are. In the laboratory these are on the disk
/// with the programs.
fn kernels() -> Outcome<Vec<(PathBuf, PathBuf)>> {
    let Some(home) = std::env::var_os(KERNELS).map(PathBuf::from) else { return Ok(Vec::new()) };
    let cannot = |error| Failure::new(format!("cannot read the kernels of {}: {error}", home.display()));
    let mut files = Vec::new();
    let mut folders = vec![home.join("kernels")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.strip_prefix(&home).unwrap_or(&path).to_owned(), path.clone())),
            }
        }
    }
    Ok(files)
}

fn run_in(laboratory: &Laboratory, binaries: &[TestBinary], filter: Option<&str>) -> Outcome<Report> {
    let logs = project::target().join("test-logs").join("lab");
    make_folder(&logs)?;
    // Those that run alone elsewhere are alone in theirs.
    let tests = select(binaries, filter, ENGINE)?;
    Ok(run_each(tests, at_once(), |test| {
        let (succeeded, said) = run_one(laboratory, test, None);
        // What is lost with the log is printed all the same where the test failed.
        let _ = std::fs::write(logs.join(test.name().replace("::", ".") + ".log"), &said);
        (succeeded, said)
    }))
}

/// How many laboratories run beside each other.
pub(super) fn at_once() -> usize {
    workers(cores(), MEMORY)
}

/// Runs a test in a laboratory of its own, perhaps one that repeats itself for so long; says whether it succeeded and
/// what it printed.
fn run_one(laboratory: &Laboratory, test: &Test<'_>, time: Option<Duration>) -> (bool, String) {
    let program = Path::new(PROGRAMS).join(name(test.binary));
    let program = program.to_string_lossy();
    let command: Vec<&str> = std::iter::once(&*program).chain(test.arguments()).collect();
    let mut order = time.map_or_else(|| order::with_pipes(&command), |time| order::repeated(&command, time));
    if std::env::var_os(KERNELS).is_some() {
        order.environment.push((KERNELS.to_owned(), PROGRAMS.to_owned()));
    }
    let limit = LIMIT + time.unwrap_or_default();
    let mut said = Vec::new();
    let outcome = laboratory
        .start()
        .and_then(|mut session| session.run_quietly(&order, limit, |bytes| said.extend_from_slice(bytes)));
    let said = String::from_utf8_lossy(&said).into_owned();
    match outcome {
        Ok(status) => (status == 0, said),
        Err(failure) => (false, format!("{said}\n{failure}")),
    }
}

/// What a program of tests is called on the programs' disk: as in cargo's folder, by which tests find their way.
fn name(binary: &TestBinary) -> PathBuf {
    Path::new("deps").join(binary.path.file_name().unwrap_or_default())
}
