//! Machines started and stopped again and again in one process, as a program does that embeds the library: what the
//! process holds is counted after each, and stays the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm::{ExitStatus, Home, Sandbox};
use vmm_tests::{Holdings, TestHome, engine, rounds, settles};

/// How a sandbox ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Dropped,
    Stopped,
    Killed,
}

const ENDS: [End; 3] = [End::Dropped, End::Stopped, End::Killed];

/// What the program holds is no business of the engine's, which is in another process. What machines leave on KVM is looked at
/// by `rounds`.
#[test]
fn host_a_program_holds_after_each_sandbox_what_it_held_before() {
    let test = TestHome::new();
    let home = test.open();
    let before = Holdings::now();
    // What is mapped for the next one too, and kept in the home for it, is there after each end was seen once.
    let warm_up = ENDS.len();
    let mut expected = None;
    for (round, end) in (1..=warm_up + rounds(3)).zip(ENDS.into_iter().cycle()) {
        let sockets = use_sandbox(&home, end);
        test.wait_until_quiet();
        assert_eq!(test.leftovers(), Vec::<String>::new(), "after round {round}, {end:?}");
        let left: Vec<_> = sockets.iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "after round {round}, {end:?}: {left:?}");
        if round == warm_up {
            expected = Some((before.with_mappings_of_now(), test.files()));
        }
        if let Some((holdings, files)) = &expected {
            let settled = settles(holdings, Holdings::now);
            assert_eq!(settled, Ok(()), "after round {round}, {end:?}; it was {holdings:?}");
            assert_eq!(&test.files(), files, "after round {round}, {end:?}");
        }
    }
    let (holdings, files) = expected.expect("there was a warm-up");
    println!("{holdings:?} and {} files after each of {} rounds", files.len(), rounds(3));
}

/// Starts a sandbox, runs a command in it and ends it; gives the sockets that it had, and the folder of them.
fn use_sandbox(home: &Home, end: End) -> Vec<PathBuf> {
    let engine = engine().parse().expect("an engine");
    let sandbox = Sandbox::builder("alpine").home(home).engine(engine).start().unwrap();
    let output = sandbox.command(["sh", "-c", "echo $((6 * 7)); exit 3"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status), (&b"42\n"[..], ExitStatus::Exited(3)));
    let mut sockets = sockets_with(&sandbox.id().to_string());
    assert!(!sockets.is_empty(), "no socket has the VM's id in its path");
    let folders: Vec<_> = sockets.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
    sockets.extend(folders);
    match end {
        End::Dropped => drop(sandbox),
        End::Stopped => drop(sandbox.stop(Duration::from_secs(30)).unwrap()),
        End::Killed => drop(sandbox.kill().unwrap()),
    }
    sockets
}

/// The paths of the Unix sockets there are with this in them.
fn sockets_with(word: &str) -> Vec<PathBuf> {
    let list = std::fs::read_to_string("/proc/net/unix").expect("Linux's list of sockets");
    let paths = list.lines().filter_map(|line| line.split_whitespace().nth(7)).map(Path::new);
    paths
        .filter(|path| path.is_absolute() && path.to_string_lossy().contains(word))
        .map(Path::to_owned)
        .collect()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod native {
    use std::io::Read;
    use std::sync::mpsc;

    use vmm::arch::Arch;
    use vmm::engine::native::NativeEngine;
    use vmm::engine::{Engine, MachineEnd};
    use vmm_tests::tiny_guest::{SAID, Then, machine};
    use vmm_tests::{Holdings, PATIENCE, TestHome, engine, settles, skip};

    /// What is promised: so many starts and stops, and nothing lost.
    const ROUNDS: usize = 200;

    /// How a machine comes to its end.
    #[derive(Clone, Copy, Debug)]
    enum End {
        /// The guest does it when its device has answered.
        ByGuest(Then),
        /// It is stopped while the guest does this.
        Stopped(Then),
        /// It is dropped while the guest does this.
        Dropped(Then),
        /// It is dropped at once, wherever the guest may be.
        DroppedAtOnce,
    }

    const ENDS: [End; 7] = [
        End::ByGuest(Then::PowersOff),
        End::ByGuest(Then::Resets),
        End::Stopped(Then::Spins),
        End::Stopped(Then::Halts),
        End::Dropped(Then::Spins),
        End::Dropped(Then::Halts),
        End::DroppedAtOnce,
    ];

    /// One, two and four in turn; with seven ends, each meets each.
    const CPUS: [u8; 3] = [1, 2, 4];

    #[test]
    fn kvm_a_process_holds_after_200_machines_what_it_held_before() {
        if engine() != "kvm" {
            skip!("`cargo lab test` runs it in the laboratory");
        }
        // Only one test of this program at a time, so that nobody else changes what is counted.
        let _turn = TestHome::empty();
        let warm_up = ENDS.len() * CPUS.len();
        let before = Holdings::now();
        let mut expected = None;
        let kinds = ENDS.into_iter().cycle().zip(CPUS.into_iter().cycle());
        for (round, (end, cpus)) in (1..=warm_up + ROUNDS).zip(kinds) {
            start_and_end(cpus, end);
            if round == warm_up {
                expected = Some(before.with_mappings_of_now());
            }
            if let Some(expected) = &expected {
                assert_eq!(
                    settles(expected, Holdings::now),
                    Ok(()),
                    "after round {round}: {cpus} CPUs, {end:?}"
                );
            }
        }
        println!("{expected:?} after each of {ROUNDS} rounds");
    }

    fn start_and_end(cpus: u8, end: End) {
        let then = match end {
            End::ByGuest(then) | End::Stopped(then) | End::Dropped(then) => then,
            End::DroppedAtOnce => Then::Spins,
        };
        let engine = NativeEngine::kvm(Arch::X86_64).unwrap();
        let (machine, mut console) = machine(cpus, then).unwrap();
        let (sender, ended) = mpsc::channel();
        let mut running = engine.launch(machine, Box::new(move |end| sender.send(end).unwrap())).unwrap();
        if !matches!(end, End::DroppedAtOnce) {
            let mut said = [0];
            console.set_read_timeout(Some(PATIENCE)).unwrap();
            console.read_exact(&mut said).unwrap();
            assert_eq!(said, [SAID]);
        }
        match end {
            End::ByGuest(_) => {}
            End::Stopped(_) => running.stop().unwrap(),
            End::Dropped(_) | End::DroppedAtOnce => drop(running),
        }
        let expected = match end {
            End::ByGuest(Then::PowersOff) => MachineEnd::PowerOff,
            End::ByGuest(_) => MachineEnd::Reset,
            _ => MachineEnd::Stopped,
        };
        assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), expected);
    }
}
