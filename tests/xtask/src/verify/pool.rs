//! System tests: each is a process of its own, several at once, none for ever.
//!
//! A process each, because a test that hangs or dies must take no other with it, and because machines take the
//! time: a slow program of tests must not keep the next one waiting.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::build::TestBinary;
use super::report::{Report, skips};
use crate::failure::{Failure, Outcome};
use crate::project;
use crate::steps::seconds;

/// No test of ours takes nearly so long, on the slowest machine: one that does hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// What the machines of one test need at most, in KiB.
const MEMORY_OF_A_TEST: u64 = 1536 * 1024;

/// A test whose name begins so measures something, or needs the whole machine: it runs alone.
const ALONE: &str = "alone_";

/// Tests whose names begin so are for machines on KVM, and those for what is not there, or is no other there.
const FOR_KVM: &str = "kvm_";
const FOR_THE_HOST: &str = "host_";

/// Those that are about a kernel of ours need one to be built, which takes longer than all of them.
const FOR_OUR_KERNEL: &str = "ours_";

/// The variable that tells tests of a home with a kernel of ours, which they then boot.
pub(crate) const KERNELS: &str = "VMM_TEST_KERNELS";

/// A test of a program of tests.
pub(crate) struct Test<'a> {
    pub(crate) binary: &'a TestBinary,
    pub(crate) function: String,
}

impl Test<'_> {
    /// Its name, for people: its file's and its own.
    pub(crate) fn name(&self) -> String {
        match self.binary.name.trim_start_matches("tests::") {
            "engines" | "once" => self.function.clone(),
            program => format!("{program}::{}", self.function),
        }
    }

    /// What it is called with, to run this test only.
    pub(crate) fn arguments(&self) -> [&str; 4] {
        [&self.function, "--exact", "--nocapture", "--test-threads=1"]
    }

    fn is_alone(&self) -> bool {
        self.begins(ALONE)
    }

    fn is_for(&self, engine: &str) -> bool {
        let has_our_kernel = std::env::var_os(KERNELS).is_some();
        !self.begins(if engine == "kvm" { FOR_THE_HOST } else { FOR_KVM })
            && (has_our_kernel || !self.begins(FOR_OUR_KERNEL))
    }

    fn begins(&self, prefix: &str) -> bool {
        self.function.rsplit("::").next().is_some_and(|name| name.starts_with(prefix))
    }
}

/// Runs the tests with machines on this engine.
pub(super) fn run(binaries: &[TestBinary], filter: Option<&str>, engine: &str) -> Outcome<Report> {
    let logs = project::target().join("test-logs").join(engine);
    std::fs::create_dir_all(&logs)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", logs.display())))?;
    let (alone, beside): (Vec<_>, Vec<_>) =
        select(binaries, filter, engine)?.into_iter().partition(Test::is_alone);
    let run_here =
        |test: &Test<'_>| run_one(test, engine, &logs.join(test.name().replace("::", ".") + ".log"));
    let mut report = run_each(beside, workers(cores() + 1, MEMORY_OF_A_TEST), run_here);
    report.add(run_each(alone, 1, run_here));
    Ok(report)
}

/// The tests for this engine with the filter in their name.
pub(crate) fn select<'a>(
    binaries: &'a [TestBinary],
    filter: Option<&str>,
    engine: &str,
) -> Outcome<Vec<Test<'a>>> {
    let mut tests = Vec::new();
    for binary in binaries {
        tests.extend(functions(binary)?.into_iter().map(|function| Test { binary, function }));
    }
    tests.retain(|test| test.is_for(engine) && filter.is_none_or(|filter| test.name().contains(filter)));
    Ok(tests)
}

/// A guest without hardware virtualization keeps a core busy while it boots, and waits most of the time after.
pub(crate) fn workers(at_most: usize, kib_of_each: u64) -> usize {
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_memory(&text));
    let fit = memory.map_or(at_most, |kib| usize::try_from(kib / kib_of_each).unwrap_or(at_most));
    at_most.min(fit).max(1)
}

/// How many processors this machine has.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn functions(binary: &TestBinary) -> Outcome<Vec<String>> {
    let output = binary
        .command()
        .args(["--list", "--format", "terse"])
        .output()
        .map_err(|error| Failure::new(format!("cannot start {}: {error}", binary.path.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect())
}

/// Runs tests, so many at once, by a function that says whether one succeeded and what it printed.
pub(crate) fn run_each(
    tests: Vec<Test<'_>>,
    workers: usize,
    run_one: impl Fn(&Test<'_>) -> (bool, String) + Sync,
) -> Report {
    if !tests.is_empty() {
        println!("  {} tests, {workers} at once", tests.len());
    }
    let outcomes = in_parallel(tests, workers, |test| {
        let name = test.name();
        let began = Instant::now();
        let (succeeded, said) = run_one(&test);
        let word = match (succeeded, skips(&said).next()) {
            (false, _) => "FAIL",
            (true, Some(_)) => "skip",
            (true, None) => "ok  ",
        };
        println!("  {word} {name} ({})", seconds(began.elapsed()));
        (name, succeeded, said)
    });
    let mut report = Report::default();
    for (name, succeeded, said) in outcomes {
        report.add_test(&name, succeeded, &said);
    }
    report
}

/// Does this work with each of the items, in their order, with so many at once. What comes of them is in the order in which
/// they were done.
pub(crate) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    workers: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let (done, results) = mpsc::channel();
    let waiting = Mutex::new(VecDeque::from(items));
    let next = || waiting.lock().ok()?.pop_front();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = next() {
                    // The receiver lives as long as this function.
                    let _ = done.send(work(item));
                }
            });
        }
    });
    drop(done);
    results.into_iter().collect()
}

/// Does two things at once; both are done when it returns.
pub(super) fn beside<A: Send, B>(
    one: impl FnOnce() -> Outcome<A> + Send,
    other: impl FnOnce() -> Outcome<B>,
) -> Outcome<(A, B)> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((one?, other?))
    })
}

/// Runs a test to its end; says whether it succeeded and what it printed.
fn run_one(test: &Test<'_>, engine: &str, log: &Path) -> (bool, String) {
    let started = File::create(log).and_then(|file| {
        let mut command = test.binary.command();
        command.args(test.arguments()).env("VMM_TEST_ENGINE", engine);
        command.stdout(file.try_clone()?).stderr(file).process_group(0).spawn()
    });
    let child = match started {
        Ok(child) => child,
        Err(error) => return (false, format!("the test cannot be started: {error}")),
    };
    let status = wait(child, LIMIT);
    let said = std::fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    match status {
        Some(status) => (status.success(), said),
        None => (false, format!("{said}\nkilled: it ran for {}", seconds(LIMIT))),
    }
}

/// Waits for a process that leads a group. `None`: it took too long, and its group was killed.
fn wait(mut child: Child, limit: Duration) -> Option<ExitStatus> {
    let group = format!("-{}", child.id());
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let status = child.wait();
        // The receiver may have given up on it.
        let _ = ended.send(());
        status
    });
    let in_time = !matches!(end.recv_timeout(limit), Err(RecvTimeoutError::Timeout));
    if !in_time {
        // The shell's own: a minimal system has no such program.
        let _ = Command::new("sh").args(["-c", "kill -s KILL -- \"$0\"", &group]).status();
    }
    let status = waiter.join().ok()?.ok()?;
    in_time.then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_takes_too_long_is_killed_with_its_group() {
        let child = Command::new("sh").args(["-c", "sleep 1000 & wait"]).process_group(0).spawn().unwrap();
        assert!(wait(child, Duration::from_millis(50)).is_none());
        let child = Command::new("true").process_group(0).spawn().unwrap();
        assert!(wait(child, LIMIT).unwrap().success());
    }

    #[test]
    fn memory_is_read_from_what_the_kernel_says_is_available() {
        assert_eq!(available_memory("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2048));
        assert_eq!(available_memory(""), None);
    }
}
