//! Machines that come and go in every way there is, with one, two and four processors: what each says is right, and
//! when it is gone everything is as it was. `cargo verify --soak laboratory` makes rounds for an hour.

use std::time::Instant;

use vmm_tests::whole_machine::{MemoryReading, Population, Trend};
use vmm_tests::{Holdings, PATIENCE, TestHome, TestVm, bury_orphans, goes_on, in_laboratory, settles};

/// How a machine comes and goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It is a command's own, and goes when that has ended.
    Foreground,
    /// It is stopped, and removed.
    Stopped,
    /// It is stopped, started again, stopped, and removed.
    StartedAgain,
    /// It is removed while it runs.
    RemovedByForce,
    /// It is killed, and removed.
    Killed,
    /// Its monitor is killed, and what is left of it removed.
    MonitorKilled,
    /// The run that it belongs to is killed.
    RunKilled,
}

/// Seven ways and three numbers of processors: each meets each.
const WAYS: [Way; 7] = [
    Way::Foreground,
    Way::Stopped,
    Way::MonitorKilled,
    Way::RemovedByForce,
    Way::Killed,
    Way::StartedAgain,
    Way::RunKilled,
];
const CPUS: [&str; 3] = ["1", "2", "4"];

/// So many rounds make what is kept for the next ones, such as caches in the home.
const WARM_UP: usize = 2;

/// How many rounds it makes where nothing else is said.
const USUAL: usize = 3;

/// What is there, and is to be there again after each round.
#[derive(Debug, PartialEq)]
struct Scene {
    holdings: Holdings,
    files: Vec<std::path::PathBuf>,
    /// Of the whole machine, where nobody else changes it.
    population: Option<Population>,
}

impl Scene {
    fn now(home: &TestHome) -> Self {
        Self {
            holdings: Holdings::now(),
            files: home.files(),
            population: in_laboratory().then(Population::now),
        }
    }
}

#[test]
fn machines_come_and_go_in_every_way_and_all_is_as_it_was() {
    let home = TestHome::new();
    let began = Instant::now();
    let (mut round, mut commands) = (0, 0);
    let before = Holdings::now();
    let (mut scene, mut readings) = (None, Vec::new());
    for (way, cpus) in WAYS.into_iter().cycle().zip(CPUS.into_iter().cycle()) {
        if !goes_on(round, USUAL, began) {
            break;
        }
        round += 1;
        commands += come_and_go(&home, round, way, cpus);
        home.wait_until_quiet();
        bury_orphans();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "after round {round}: {way:?}, {cpus} CPUs");
        if round >= WARM_UP {
            let scene = scene.get_or_insert_with(|| Scene {
                holdings: before.with_mappings_of_now(),
                ..Scene::now(&home)
            });
            let settled = settles(scene, || Scene::now(&home));
            assert_eq!(settled, Ok(()), "after round {round}: {way:?}, {cpus} CPUs; it was {scene:?}");
        }
        if in_laboratory() {
            readings.push(MemoryReading::now());
        }
    }
    let scene = scene.expect("there were rounds");
    let trend = Trend::of(&readings);
    println!(
        "rounds: {round} rounds, {commands} commands; after each: {} files, {} descriptors and {} threads as before, \
         {}; {}",
        scene.files.len(),
        scene.holdings.descriptors,
        scene.holdings.threads,
        scene.population.map_or_else(
            || "no process more".to_owned(),
            |all| format!(
                "{} processes, {} sockets, {} mounts in all",
                all.processes, all.sockets, all.mounts
            )
        ),
        trend.map_or_else(|| "too few readings of memory to judge".to_owned(), |trend| trend.to_string())
    );
    println!("memory: {readings:?}");
    assert!(trend.is_none_or(|trend| trend.is_flat()), "memory is lost: {trend:?}");
}

/// One machine's life; gives how many commands were run in it, each with the right answer.
fn come_and_go(home: &TestHome, round: usize, way: Way, cpus: &str) -> usize {
    let script = format!(
        "nproc; dd if=/dev/urandom of=/srv/x bs=64k count=16 2>/dev/null; sync; wc -c < /srv/x; echo round {round}"
    );
    let answer = format!("{cpus}\n1048576\nround {round}\n");
    let options = ["--cpus", cpus, "--memory", "128M"];
    let foreground = |script: &str| {
        let words = ["run"].iter().chain(&options).chain(&["alpine", "--", "sh", "-c"]).copied();
        home.vmm(words.chain([script]))
    };
    let name = format!("round-{round}");
    let start = || {
        let vm = home.machine(&name, &options);
        assert_eq!(vm.shell(&script).succeeded().stdout(), answer);
        vm
    };
    let remove = |vm: &TestVm<'_>| drop(home.vmm(["rm", vm.name()]).run().succeeded());
    match way {
        Way::Foreground => assert_eq!(foreground(&script).run().succeeded().stdout(), answer),
        Way::Stopped => {
            let vm = start();
            vm.stop().succeeded();
            remove(&vm);
        }
        Way::StartedAgain => {
            let vm = start();
            vm.stop().succeeded();
            home.vmm(["start", &name]).run().succeeded();
            assert_eq!(vm.shell("wc -c < /srv/x").succeeded().stdout(), "1048576\n");
            vm.stop().succeeded();
            remove(&vm);
            return 2;
        }
        Way::RemovedByForce => drop(home.vmm(["rm", "--force", start().name()]).run().succeeded()),
        Way::Killed => {
            let vm = start();
            home.vmm(["kill", &name]).run().succeeded();
            remove(&vm);
        }
        Way::MonitorKilled => {
            let vm = start();
            let monitor = vm.monitor();
            monitor.kill();
            assert!(monitor.ends_within(PATIENCE));
            remove(&vm);
        }
        Way::RunKilled => {
            let mut run = foreground(&format!("{script}; sleep 1000")).start();
            assert_eq!(run.expect(&format!("round {round}\n")), answer);
            run.process().kill();
            run.end();
        }
    }
    1
}
