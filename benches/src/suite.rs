//! A run: who is there, rounds of all subjects in turn, then what takes many machines, and the conclusions.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use vmm::{CancelToken, Home};

use crate::benchmark::{Benchmark, Plan};
use crate::bounded::Limit;
use crate::host;
use crate::memory;
use crate::noise::Listener;
use crate::peers::guest_files::GuestFiles;
use crate::peers::ours::OurMachine;
use crate::peers::{self, Context, Machine, Peer, ours};
use crate::report::{Incident, IncidentKind, Metric, Report, RunSettings, Subject};
use crate::session;
use crate::trouble::Trouble;

/// The memory of a machine that is alone, and of one of many, in MiB.
const MEMORY: u64 = 512;
const MANY_MEMORY: u64 = 256;

/// What a machine takes of the host beside its guest's memory, at most, and what is left to others; in bytes.
const OVERHEAD: u64 = 96 << 20;
const RESERVE: u64 = 1 << 30;

/// How long a step may take, and how many more machines at once make it as long again.
const PATIENCE: Duration = Duration::from_secs(180);
const CROWD: usize = 16;

/// After so many failures a subject is asked no more.
const GIVE_UP: usize = 2;

/// What is to be run.
pub struct Settings {
    /// The benchmarks; none means all.
    pub benchmarks: Vec<Benchmark>,
    /// How many rounds count.
    pub rounds: usize,
    /// Less of everything.
    pub quick: bool,
    /// The image of our VMs.
    pub image: String,
    /// A kernel, with which our VMs are measured again.
    pub kernel: Option<String>,
    /// The peers that are wanted; without a list, all.
    pub peers: Option<Vec<String>>,
    /// Programs of peers, by the peer's name, where they are not on the path.
    pub programs: BTreeMap<String, PathBuf>,
    /// Our executable.
    pub vmm: PathBuf,
    /// The home of our VMs.
    pub home: Home,
    /// Ends the run, and all that it started.
    pub cancel: CancelToken,
}

impl Settings {
    /// A whole run of everything.
    pub fn new(vmm: PathBuf, home: Home, cancel: CancelToken) -> Self {
        Self {
            benchmarks: Vec::new(),
            rounds: crate::DEFAULT_ROUNDS,
            quick: false,
            image: "alpine".to_owned(),
            kernel: None,
            peers: None,
            programs: BTreeMap::new(),
            vmm,
            home,
            cancel,
        }
    }

    fn wants(&self, peer: &str) -> bool {
        self.peers.as_ref().is_none_or(|wanted| wanted.iter().any(|name| name == peer))
    }
}

/// Runs the benchmarks, and tells how far it is.
pub fn run(settings: &Settings, tell: &dyn Fn(&str)) -> Result<Report, Trouble> {
    let mut benchmarks =
        if settings.benchmarks.is_empty() { Benchmark::ALL.to_vec() } else { settings.benchmarks.clone() };
    benchmarks.sort();
    benchmarks.dedup();
    let settings_of_run = RunSettings {
        rounds: settings.rounds,
        quick: settings.quick,
        image: settings.image.clone(),
        kernel: settings.kernel.clone(),
        cpus: 1,
        memory_mib: MEMORY,
        many_memory_mib: MANY_MEMORY,
        benchmarks,
    };
    let report = Report::new(date(SystemTime::now()), host::describe(), settings_of_run);
    let listener = Listener::new();
    let folder = Folder::make(settings.home.root())?;
    let mut context = Context {
        cancel: settings.cancel.clone(),
        home: settings.home.clone(),
        vmm: settings.vmm.clone(),
        image: settings.image.clone(),
        folder: folder.0.clone(),
        programs: settings.programs.clone(),
        hardware: false,
        guest_files: Err("nobody asked for them".to_owned()),
        patience: PATIENCE,
    };
    tell("a first VM, which tells what there is");
    let engine = prepare(&mut context, settings)?;
    let others = peers::others().into_iter().filter(|peer| settings.wants(peer.name()));
    let peers = peers::ourselves(settings.kernel.as_deref()).into_iter().chain(others).collect();
    let mut suite = Suite::new(&context, Plan::new(settings.quick), report, peers, tell, listener);
    suite.report.engine = engine;
    suite.measure()
}

/// Starts a VM of ours: its engine, and what monitors get that bring no guest.
fn prepare(context: &mut Context, settings: &Settings) -> Result<Option<String>, Trouble> {
    let limit = context.limit();
    let (machine, _) = OurMachine::boot(context, None, MEMORY, &limit)?;
    let engine = machine.sandbox()?.info()?.engine;
    context.hardware = engine.as_deref().is_some_and(|engine| engine != "software");
    if ["qemu-microvm", "firecracker", "cloud-hypervisor"].iter().any(|peer| settings.wants(peer)) {
        let made = GuestFiles::make(
            machine.sandbox()?,
            &context.home,
            &context.image,
            &context.folder,
            &context.limit(),
        );
        context.guest_files = match made {
            Err(Trouble::Cancelled) => return Err(Trouble::Cancelled),
            made => made.map_err(|trouble| trouble.to_string()),
        };
    }
    Ok(engine)
}

/// A run that is under way.
pub(crate) struct Suite<'a> {
    context: &'a Context,
    plan: Plan,
    report: Report,
    /// Those who are there.
    peers: Vec<Box<dyn Peer>>,
    failures: BTreeMap<(String, Benchmark), usize>,
    tell: &'a dyn Fn(&str),
    listener: Listener,
}

impl<'a> Suite<'a> {
    /// Looks who is there.
    fn new(
        context: &'a Context,
        plan: Plan,
        report: Report,
        peers: Vec<Box<dyn Peer>>,
        tell: &'a dyn Fn(&str),
        listener: Listener,
    ) -> Self {
        let mut suite =
            Self { context, plan, report, peers: Vec::new(), failures: BTreeMap::new(), tell, listener };
        suite.fit_into_memory(host::memory("MemAvailable"));
        for benchmark in suite.report.settings.benchmarks.clone() {
            let measures = suite.plan.measures(benchmark);
            let metric = |measure| Metric { measure, samples: BTreeMap::new() };
            suite.report.metrics.extend(measures.into_iter().map(metric));
        }
        for peer in peers {
            let (version, absent) = match peer.look(context) {
                Ok(version) => (Some(version), None),
                Err(absent) => (None, Some(absent)),
            };
            let [name, title, note] = [peer.name(), peer.title(), peer.note()].map(str::to_owned);
            match &absent {
                Some(absent) => tell(&format!("{title} is not measured: {}", absent.why)),
                None => suite.peers.push(peer),
            }
            suite.report.subjects.push(Subject { name, title, note, version, absent });
        }
        suite
    }

    /// Does without machines that the host has no memory for, and says so.
    fn fit_into_memory(&mut self, available: Option<u64>) {
        let Some(available) = available else { return };
        let each = (MANY_MEMORY << 20) + OVERHEAD;
        let fitting = usize::try_from(available.saturating_sub(RESERVE) / each).unwrap_or(usize::MAX).max(1);
        let mut cut = |benchmark, wanted: usize| {
            let what = format!(
                "not with {wanted} machines: the host's {} MiB that are available suffice for {fitting} of {MANY_MEMORY} MiB",
                available >> 20
            );
            let subject = ours::NAME.to_owned();
            self.report.incidents.push(Incident { subject, benchmark, kind: IncidentKind::CutShort, what });
        };
        if self.plan.storm > fitting && self.report.settings.benchmarks.contains(&Benchmark::Storm) {
            cut(Benchmark::Storm, self.plan.storm);
        }
        if self.report.settings.benchmarks.contains(&Benchmark::Memory) {
            self.plan
                .memory
                .iter()
                .filter(|&&count| count > fitting)
                .for_each(|&count| cut(Benchmark::Memory, count));
        }
        self.plan.storm = self.plan.storm.min(fitting);
        self.plan.memory.retain(|&count| count <= fitting);
    }

    fn measure(mut self) -> Result<Report, Trouble> {
        let rounds = self.report.settings.rounds;
        let in_turn = self
            .report
            .settings
            .benchmarks
            .iter()
            .any(|benchmark| !matches!(benchmark, Benchmark::Memory | Benchmark::Storm));
        if in_turn {
            // A round before the first: nobody pays for cold caches.
            for round in 0..=rounds {
                for at in self.order(round) {
                    self.round(at, round)?;
                }
            }
        }
        if self.wants(Benchmark::Memory) {
            self.memory(rounds)?;
        }
        if self.wants(Benchmark::Storm) {
            for round in 1..=rounds.min(self.plan.storms) {
                for at in self.order(round) {
                    self.storm(at, round)?;
                }
            }
        }
        self.report.metrics.retain(|metric| !metric.samples.is_empty());
        let noise = self.listener.finish();
        self.report.conclude(noise);
        Ok(self.report)
    }

    fn wants(&self, benchmark: Benchmark) -> bool {
        self.report.settings.benchmarks.contains(&benchmark)
    }

    /// Another one comes first in each round.
    fn order(&self, round: usize) -> Vec<usize> {
        let count = self.peers.len();
        (0..count).map(|at| (at + round) % count.max(1)).collect()
    }

    /// A round of one subject: a start of its own, and a machine that stays for all else.
    fn round(&mut self, at: usize, round: usize) -> Result<(), Trouble> {
        self.listener.listen();
        let name = self.peers[at].name();
        let shown = if round == 0 { "warm-up".to_owned() } else { format!("round {round}") };
        if self.goes_on(name, Benchmark::Start) {
            let run = self.peers[at].run_once(self.context, MEMORY, &self.context.limit());
            if let Some(run) = self.noted(name, Benchmark::Start, run)? {
                (self.tell)(&format!("{shown}, {name}: the first answer after {:.0} ms", run.answer));
                self.record(name, "start.answer", round, vec![run.answer]);
                self.record(name, "start.whole", round, vec![run.whole]);
            }
        }
        const STAYS: [Benchmark; 6] = [
            Benchmark::Start,
            Benchmark::Exec,
            Benchmark::ExecMany,
            Benchmark::Files,
            Benchmark::Disk,
            Benchmark::Stop,
        ];
        let wanted: Vec<Benchmark> =
            STAYS.into_iter().filter(|&benchmark| self.goes_on(name, benchmark)).collect();
        let Some(&first) = wanted.first() else { return Ok(()) };
        let booted = self.peers[at].boot(self.context, MEMORY, &self.context.limit());
        let Some((mut machine, ready)) = self.noted(name, first, booted)? else { return Ok(()) };
        self.record(name, "start.ready", round, vec![ready]);
        for benchmark in wanted {
            let limit = self.context.limit();
            let figures = match benchmark {
                Benchmark::Exec => {
                    machine.exec(self.plan.execs, &limit).map(|times| vec![("exec.true", times)])
                }
                Benchmark::ExecMany => session::many(machine.as_mut(), &self.plan, &limit),
                Benchmark::Files => {
                    session::files(machine.as_mut(), &self.plan, &self.context.folder, &limit)
                }
                Benchmark::Disk => session::disk(machine.as_mut(), &self.plan, &limit),
                _ => continue,
            };
            let broken = matches!(figures, Err(Trouble::Crashed { .. } | Trouble::TimedOut { .. }));
            for (id, values) in self.noted(name, benchmark, figures)?.unwrap_or_default() {
                self.record(name, id, round, values);
            }
            if broken {
                return Ok(());
            }
        }
        if self.goes_on(name, Benchmark::Stop) {
            let stopped = machine.stop(&self.context.limit());
            if let Some(took) = self.noted(name, Benchmark::Stop, stopped)? {
                self.record(name, "stop.stop", round, vec![took]);
            }
        }
        (self.tell)(&format!("{shown}, {name}: done"));
        Ok(())
    }

    /// Looks at the memory of ever more machines at a time.
    fn memory(&mut self, rounds: usize) -> Result<(), Trouble> {
        for count in self.plan.memory.clone() {
            // One alone is one figure, many are as many.
            let repeats = if count == 1 { rounds } else { 1 };
            for repeat in 1..=repeats {
                for at in self.order(repeat) {
                    let name = self.peers[at].name();
                    if self.goes_on(name, Benchmark::Memory) {
                        (self.tell)(&format!("memory with {count}, {name}"));
                        let figures = self.memory_with(at, count);
                        self.note_memory(name, count, figures)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note_memory(
        &mut self,
        name: &str,
        count: usize,
        figures: Result<Vec<memory::Footprint>, Trouble>,
    ) -> Result<(), Trouble> {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for footprint in self.noted(name, Benchmark::Memory, figures)?.unwrap_or_default() {
            for (what, bytes) in [("private", footprint.private), ("pss", footprint.pss)] {
                self.record(name, &format!("memory.{count}.{what}"), 1, vec![mebibytes(bytes)]);
            }
        }
        Ok(())
    }

    /// Has so many machines run, and looks at each.
    fn memory_with(&self, at: usize, count: usize) -> Result<Vec<memory::Footprint>, Trouble> {
        let peer = &self.peers[at];
        let limit = self.crowd_limit(count);
        let mut machines: Vec<Box<dyn Machine>> = Vec::new();
        // As many start at a time as there are processors: this is no storm.
        let cores = self.report.host.cores.max(1);
        while machines.len() < count {
            let batch = cores.min(count - machines.len());
            for booted in at_once(batch, || peer.boot(self.context, MANY_MEMORY, &limit)) {
                machines.push(booted?.0);
            }
        }
        machines
            .iter_mut()
            .map(|machine| memory::footprint(&machine.processes(&limit)?, MANY_MEMORY << 20))
            .collect()
    }

    /// Many starts at once.
    fn storm(&mut self, at: usize, round: usize) -> Result<(), Trouble> {
        let name = self.peers[at].name();
        if !self.goes_on(name, Benchmark::Storm) {
            return Ok(());
        }
        self.listener.listen();
        let count = self.plan.storm;
        (self.tell)(&format!("storm of {count}, round {round}, {name}"));
        let limit = self.crowd_limit(count);
        let began = Instant::now();
        let runs = at_once(count, || self.peers[at].run_once(self.context, MANY_MEMORY, &limit));
        let all = began.elapsed().as_secs_f64() * 1000.0;
        let failed = runs.iter().filter(|run| run.is_err()).count();
        let answers = runs.into_iter().map(|run| run.map(|run| run.answer)).collect::<Result<Vec<f64>, _>>();
        let answers = answers.map_err(|trouble| match trouble {
            Trouble::Cancelled => Trouble::Cancelled,
            trouble => Trouble::Failed(format!("{failed} of {count} failed; one of them: {trouble}")),
        });
        if let Some(answers) = self.noted(name, Benchmark::Storm, answers)? {
            self.record(name, "storm.answer", round, answers);
            self.record(name, "storm.all", round, vec![all]);
        }
        Ok(())
    }

    fn crowd_limit(&self, count: usize) -> Limit {
        let times = u32::try_from(1 + count / CROWD).unwrap_or(u32::MAX);
        Limit::new(&self.context.cancel, self.context.patience * times)
    }

    /// Whether a subject is still asked.
    fn goes_on(&self, name: &str, benchmark: Benchmark) -> bool {
        let failures = self.failures.get(&(name.to_owned(), benchmark)).copied().unwrap_or(0);
        self.wants(benchmark) && failures < GIVE_UP
    }

    /// Takes note of what failed. What is cancelled ends the run.
    fn noted<T>(
        &mut self,
        name: &str,
        benchmark: Benchmark,
        outcome: Result<T, Trouble>,
    ) -> Result<Option<T>, Trouble> {
        let trouble = match outcome {
            Ok(value) => return Ok(Some(value)),
            // Whoever is cancelled may put it in other words.
            Err(_) if self.context.cancel.is_cancelled() => return Err(Trouble::Cancelled),
            Err(trouble) => trouble,
        };
        let failures = self.failures.entry((name.to_owned(), benchmark)).or_default();
        *failures += 1;
        let mut what = trouble.to_string();
        let kind = if matches!(trouble, Trouble::Unsupported(_)) {
            *failures = GIVE_UP;
            IncidentKind::Unsupported
        } else {
            if *failures == GIVE_UP {
                what += "; it is asked no more";
            }
            (self.tell)(&format!("{name}, {benchmark}: {what}"));
            IncidentKind::Failed
        };
        self.report.incidents.push(Incident { subject: name.to_owned(), benchmark, kind, what });
        Ok(None)
    }

    /// Keeps what was measured; the round before the first does not count.
    fn record(&mut self, name: &str, id: &str, round: usize, values: Vec<f64>) {
        if round == 0 {
            return;
        }
        if let Some(metric) = self.report.metrics.iter_mut().find(|metric| metric.measure.id == id) {
            metric.samples.entry(name.to_owned()).or_default().push(values);
        }
    }
}

/// Does a thing so many times at once.
fn at_once<T: Send>(count: usize, thing: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&thing)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// A folder of this run, removed at its end.
struct Folder(PathBuf);

impl Folder {
    /// Makes one in the home, on the disk that our own VMs use. What runs that were killed left there goes.
    fn make(home: &Path) -> Result<Self, Trouble> {
        const NAME: &str = ".bench-";
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(NAME));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = home.join(format!("{NAME}{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Trouble::Failed(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is cleared away by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A moment, as RFC 3339 has it.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |span| span.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since March 1st of year 0, in the calendar that begins with March: leap days end its years.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hours, minutes) = (rest / 3600, rest / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{:02}Z", rest % 60)
}

#[cfg(test)]
mod tests;
