//! The suite with subjects that are scripts: what it makes of those that hang, crash, or can do less.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::bounded::Running;
use crate::noise::Listener;
use crate::peers::{Booted, Run};
use crate::report::Absent;

/// A subject that is a script of the shell's: it says `answer` when it has answered, and ends by itself.
struct Script {
    name: &'static str,
    script: &'static str,
}

impl Peer for Script {
    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> &'static str {
        self.name
    }

    fn note(&self) -> &'static str {
        ""
    }

    fn look(&self, _context: &Context) -> Result<String, Absent> {
        if self.script.is_empty() {
            return Err(Absent { why: "it is not here".to_owned(), get: "get it".to_owned() });
        }
        Ok("1".to_owned())
    }

    fn run_once(&self, _context: &Context, _memory: u64, limit: &Limit) -> Result<Run, Trouble> {
        let mut command = Command::new("sh");
        command.args(["-c", self.script]);
        let mut running = Running::start(command, self.name)?;
        let began = running.began();
        let answer = running.wait_for(limit, |line| (line.text == "answer").then_some(line.at))?;
        let end = running.finish(limit)?;
        let since = |at: Instant| (at - began).as_secs_f64() * 1000.0;
        Ok(Run { answer: since(answer), whole: since(end) })
    }

    fn boot(&self, _context: &Context, _memory: u64, _limit: &Limit) -> Result<Booted, Trouble> {
        Ok((Box::new(Idle), 7.0))
    }
}

/// A machine that can run commands and stop.
struct Idle;

impl Machine for Idle {
    fn exec(&mut self, count: usize, _limit: &Limit) -> Result<Vec<f64>, Trouble> {
        Ok(vec![1.0; count])
    }

    fn exec_many(&mut self, _count: usize, _at_once: usize, _limit: &Limit) -> Result<f64, Trouble> {
        Err(Trouble::Unsupported("one at a time"))
    }

    fn shell(&mut self, _script: &str, _limit: &Limit) -> Result<f64, Trouble> {
        Err(Trouble::Failed("no shell".to_owned()))
    }

    fn copy_in(&mut self, _from: &Path, _to: &str, _limit: &Limit) -> Result<f64, Trouble> {
        Err(Trouble::Unsupported("no copies"))
    }

    fn copy_out(&mut self, _from: &str, _to: &Path, _limit: &Limit) -> Result<f64, Trouble> {
        Err(Trouble::Unsupported("no copies"))
    }

    fn processes(&mut self, _limit: &Limit) -> Result<Vec<u32>, Trouble> {
        Ok(vec![std::process::id()])
    }

    fn stop(self: Box<Self>, _limit: &Limit) -> Result<f64, Trouble> {
        Ok(2.0)
    }
}

/// Runs the suite with these scripts; the report, and how far it was told to be.
fn run(benchmarks: &[Benchmark], scripts: &[(&'static str, &'static str)], patience: Duration) -> Report {
    let token = CancelToken::new().unwrap();
    run_until(benchmarks, scripts, patience, &token).unwrap()
}

fn context(folder: &Path, cancel: &CancelToken, patience: Duration) -> Context {
    Context {
        cancel: cancel.clone(),
        home: Home::open(folder.join("home")).unwrap(),
        vmm: "vmm".into(),
        image: "alpine".to_owned(),
        folder: folder.to_owned(),
        programs: BTreeMap::new(),
        hardware: false,
        guest_files: Err("none".to_owned()),
        patience,
    }
}

fn run_until(
    benchmarks: &[Benchmark],
    scripts: &[(&'static str, &'static str)],
    patience: Duration,
    cancel: &CancelToken,
) -> Result<Report, Trouble> {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), cancel, patience);
    let settings = RunSettings {
        rounds: 3,
        quick: true,
        image: "alpine".to_owned(),
        kernel: None,
        cpus: 1,
        memory_mib: MEMORY,
        many_memory_mib: MANY_MEMORY,
        benchmarks: benchmarks.to_vec(),
    };
    let report = Report::new(date(SystemTime::UNIX_EPOCH), host::describe(), settings);
    let peers =
        scripts.iter().map(|&(name, script)| Box::new(Script { name, script }) as Box<dyn Peer>).collect();
    Suite::new(&context, Plan::new(true), report, peers, &|_| {}, Listener::new()).measure()
}

fn rounds_of<'a>(report: &'a Report, id: &str, subject: &str) -> &'a [Vec<f64>] {
    let metric = report.metrics.iter().find(|metric| metric.measure.id == id);
    metric.and_then(|metric| metric.samples.get(subject)).map_or(&[], Vec::as_slice)
}

#[test]
fn who_hangs_or_crashes_is_reported_and_the_rest_goes_on() {
    let scripts = [
        ("vmm", "echo answer"),
        ("hangs", "echo nothing; sleep 1000"),
        ("crashes", "echo broken >&2; exit 7"),
    ];
    let report = run(&[Benchmark::Start], &scripts, Duration::from_secs(4));
    assert_eq!(rounds_of(&report, "start.answer", "vmm").len(), 3);
    assert!(rounds_of(&report, "start.answer", "hangs").is_empty());
    let of = |subject: &str| -> Vec<&str> {
        let incidents = report.incidents.iter().filter(|incident| incident.subject == subject);
        incidents.map(|incident| incident.what.as_str()).collect()
    };
    // Twice, and then no more: a whole run is not spent on waiting.
    assert!(of("hangs").len() == 2 && of("hangs")[1].ends_with("asked no more"), "{:?}", of("hangs"));
    assert!(of("hangs")[0].contains("it was killed"), "{:?}", of("hangs"));
    assert!(of("crashes").len() == 2 && of("crashes")[0].contains("exit status: 7"), "{:?}", of("crashes"));
    assert!(report.incidents.iter().all(|incident| incident.kind == IncidentKind::Failed));
}

#[test]
fn what_a_subject_cannot_do_is_said_once() {
    let benchmarks = [Benchmark::Exec, Benchmark::ExecMany, Benchmark::Stop];
    let report = run(&benchmarks, &[("vmm", "echo answer")], Duration::from_secs(20));
    assert_eq!(rounds_of(&report, "exec.true", "vmm").len(), 3);
    assert_eq!(rounds_of(&report, "exec.true", "vmm")[0].len(), Plan::new(true).execs);
    assert_eq!(rounds_of(&report, "stop.stop", "vmm"), [[2.0], [2.0], [2.0]]);
    let [incident] = report.incidents.as_slice() else { panic!("{:?}", report.incidents) };
    assert_eq!((incident.kind, incident.what.as_str()), (IncidentKind::Unsupported, "one at a time"));
    assert!(!report.metrics.iter().any(|metric| metric.measure.id == "exec-many.rate"));
}

#[test]
fn who_is_absent_is_listed_with_how_to_get_it() {
    let report = run(&[Benchmark::Start], &[("vmm", "echo answer"), ("far", "")], Duration::from_secs(20));
    let far = report.subjects.iter().find(|subject| subject.name == "far").unwrap();
    assert_eq!(far.absent.as_ref().map(|absent| absent.get.as_str()), Some("get it"));
    assert_eq!(report.subjects.len(), 2);
}

#[test]
fn many_at_once_are_counted_one_by_one() {
    let benchmarks = [Benchmark::Storm, Benchmark::Memory];
    let report = run(&benchmarks, &[("vmm", "echo answer")], Duration::from_secs(20));
    assert_eq!(rounds_of(&report, "storm.answer", "vmm")[0].len(), 4);
    assert_eq!(rounds_of(&report, "memory.4.pss", "vmm").len(), 4);
    assert_eq!(rounds_of(&report, "memory.1.private", "vmm").len(), 3);
}

#[test]
fn whoever_cancels_gets_no_report_and_leaves_nothing() {
    let token = CancelToken::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("pid");
    let script: &'static str =
        Box::leak(format!("echo $$ > {}; sleep 1000", mark.display()).into_boxed_str());
    thread::scope(|scope| {
        let suite = scope.spawn(|| {
            run_until(&[Benchmark::Start], &[("vmm", script)], Duration::from_secs(1000), &token).map(drop)
        });
        let pid = loop {
            match fs::read_to_string(&mark) {
                Ok(pid) if pid.ends_with('\n') => break pid.trim().to_owned(),
                _ => thread::yield_now(),
            }
        };
        token.cancel();
        assert!(matches!(suite.join().unwrap(), Err(Trouble::Cancelled)));
        assert!(!Path::new("/proc").join(pid).exists());
    });
}

#[test]
fn a_host_with_little_memory_has_fewer_machines_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), &CancelToken::new().unwrap(), PATIENCE);
    let settings = RunSettings {
        rounds: 1,
        quick: false,
        image: "alpine".to_owned(),
        kernel: None,
        cpus: 1,
        memory_mib: MEMORY,
        many_memory_mib: MANY_MEMORY,
        benchmarks: vec![Benchmark::Memory, Benchmark::Storm],
    };
    let report = Report::new(String::new(), host::describe(), settings);
    let mut suite = Suite::new(&context, Plan::new(false), report, Vec::new(), &|_| {}, Listener::new());
    suite.plan = Plan::new(false);
    suite.report.incidents.clear();
    suite.fit_into_memory(Some(RESERVE + 12 * ((MANY_MEMORY << 20) + OVERHEAD)));
    assert_eq!((suite.plan.storm, suite.plan.memory.as_slice()), (12, &[1, 10][..]));
    assert_eq!(suite.report.incidents.len(), 2);
    assert!(suite.report.incidents[0].what.contains("suffice for 12"), "{:?}", suite.report.incidents);
}

#[test]
fn a_date_is_one_of_the_calendar() {
    let at = |seconds| date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(0), "1970-01-01T00:00:00Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(at(1_795_378_499), "2026-11-22T20:14:59Z");
}
