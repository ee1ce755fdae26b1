//! Any process of a VM's is killed, the agent in the guest too, at any moment: nothing is orphaned, `vmm ps` tells the
//! truth, and the VM can be started or removed. `cargo verify --soak kills` does it 200 times.

use std::thread::sleep;
use std::time::Duration;

use vmm_tests::{PATIENCE, Process, TestHome, binary, bury_orphans, descendants, random, rounds};

/// Until then everything of a start has begun, on a machine that is not busy.
const LATEST: u64 = 4000;

/// What is drawn for a round.
#[derive(Debug)]
struct Draw {
    /// How long after the start.
    after: Duration,
    /// Which of the processes that live then, counted from the first.
    victim: usize,
    /// The agent in the guest is killed instead, once it is there. The image's init is process 1 then.
    agent: bool,
    /// The VM is started again when it ends.
    kept: bool,
    /// Something is under way: nothing, a command, a copy, an orderly end.
    busy: Busy,
}

#[derive(Clone, Copy, Debug)]
enum Busy {
    Idle,
    Command,
    Copy,
    Stop,
}

impl Draw {
    fn new() -> Self {
        let bytes = random(8);
        let number = |index: usize| u64::from(bytes[index]) << 8 | u64::from(bytes[index + 1]);
        Self {
            after: Duration::from_millis(number(0) % LATEST),
            victim: usize::from(bytes[2]),
            kept: bytes[3] & 1 == 1,
            busy: [Busy::Idle, Busy::Command, Busy::Copy, Busy::Stop][usize::from(bytes[4]) % 4],
            agent: bytes[5].is_multiple_of(4),
        }
    }
}

#[test]
fn any_process_is_killed_at_any_moment_and_nothing_is_orphaned() {
    let home = TestHome::new();
    let mut killed = std::collections::BTreeMap::<String, usize>::new();
    for round in 1..=rounds(6) {
        let draw = Draw::new();
        println!("round {round}: {draw:?}");
        let victim = play(&home, &draw);
        *killed.entry(victim).or_default() += 1;
        home.wait_until_quiet();
        bury_orphans();
        assert_eq!(home.leftovers(), Vec::<String>::new(), "after round {round}: {draw:?}");
    }
    println!("kills: {killed:?}; nothing was left after any of them");
}

/// Starts a VM, kills a process at the moment that was drawn, and removes what is left. Says what was killed.
#[expect(clippy::disallowed_methods, reason = "the moment of a death is drawn, not waited for")]
fn play(home: &TestHome, draw: &Draw) -> String {
    let restart = if draw.kept { "always" } else { "no" };
    let init = if draw.agent { "image" } else { "agent" };
    let machine = ["run", "-d", "--name", "mortal", "--memory", "128M", "--restart", restart];
    let options = machine.into_iter().chain(["--init", init, "alpine"]);
    let start = home.vmm(options).start();
    let mut others = Vec::new();
    if draw.agent {
        // Nobody can ask for its end before.
        assert!(start.process().ends_within(PATIENCE));
    } else {
        sleep(draw.after);
    }
    if start.process().has_ended() {
        match draw.busy {
            Busy::Idle => {}
            Busy::Command => others.push(home.vmm(["exec", "mortal", "--", "sleep", "1000"]).start()),
            Busy::Copy => {
                let large = binary().display().to_string();
                others.push(home.vmm(["cp", &large, "mortal:copy"]).start());
            }
            Busy::Stop => others.push(home.vmm(["stop", "mortal"]).start()),
        }
        sleep(draw.after / 20);
    }
    let victim = if draw.agent && home.state_of("mortal").as_deref() == Some("running") {
        // A command's parent is the agent. It says so where it comes to it: the VM may be about to stop.
        home.vmm(["exec", "mortal", "--", "sh", "-c", "kill -9 $PPID; sleep 1000"]).run();
        Some("agent".to_owned())
    } else {
        let living = descendants();
        living.get(draw.victim % living.len().max(1)).map(|process| {
            process.kill();
            assert!(process.ends_within(PATIENCE));
            role(process).to_owned()
        })
    };
    // Who waits hears of it, each in a bounded time.
    let status = start.end().0;
    if let (Busy::Stop, Some(stop)) = (draw.busy, others.pop()) {
        stop.end();
    }
    truth(home, status, draw.kept);
    drop(others);
    let removed = home.vmm(["rm", "-f", "mortal"]).run();
    assert!(removed.status() == 0 || removed.stderr().contains("no VM"), "{}", removed.stderr());
    victim.unwrap_or_else(|| "nothing".to_owned())
}

/// What `vmm ps` says of the VM is so, and it can be used accordingly.
fn truth(home: &TestHome, started: i32, kept: bool) {
    let Some(state) = home.state_of("mortal") else {
        assert_ne!(started, 0, "a VM that was started is gone");
        return;
    };
    let exec = || home.vmm(["exec", "mortal", "--", "true"]).run();
    match state.as_str() {
        // It may end at this very moment, and says so then.
        "running" if exec().status() != 0 => assert_ne!(home.state_of("mortal").as_deref(), Some("running")),
        "running" | "starting" | "restarting" | "stopping" => {}
        // Its keeper may start it before we do.
        "created" | "crashed" | "stopped" if kept => {}
        // One whose starter was killed before anybody ran it was only created.
        "created" | "crashed" | "stopped" => {
            assert!(exec().ended_with(125).stderr().contains("not running"));
            home.vmm(["start", "mortal"]).run().succeeded();
            exec().succeeded();
        }
        other => panic!("the VM is {other}"),
    }
}

/// What a process is for.
fn role(process: &Process) -> &'static str {
    let words = ["--supervise-qemu", "qemu", " monitor", " keep", " run ", " exec ", " cp ", " stop "];
    let names = ["supervisor", "QEMU", "monitor", "keeper", "run", "exec", "cp", "stop"];
    let found = words.iter().position(|word| process.command.contains(word));
    found.map_or("another", |index| names[index])
}
