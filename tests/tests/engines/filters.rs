//! The monitor's threads, each held to the system calls of its role.

use std::collections::BTreeMap;
use std::fs;

use vmm_tests::{Process, TestHome, TestVm, engine};

/// What `/proc` says of each thread of a process, by the thread's name: how many filters it has beyond those that we
/// ourselves were given, in a container for example, and whether it can gain no rights by executing a program.
fn threads(process: &Process) -> BTreeMap<String, (u32, bool)> {
    let ours = fs::read_to_string("/proc/self/status").expect("our own status");
    let ours = filters(&ours);
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).expect("the monitor lives");
    let mut threads = BTreeMap::new();
    for task in tasks {
        // A thread may end while we look.
        let Ok(status) = fs::read_to_string(task.expect("a thread").path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().to_owned()
        };
        // KVM's own threads, which make no system calls, are counted among the process's.
        if field("Name").starts_with("kvm-") {
            continue;
        }
        threads.insert(field("Name"), (filters(&status) - ours, field("NoNewPrivs") == "1"));
    }
    assert!(!threads.is_empty(), "no threads of process {}", process.pid);
    threads
}

fn filters(status: &str) -> u32 {
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    count.expect("Linux 5.9 or later").trim().parse().expect("a number")
}

/// Those that the starter starts have its filter and their own.
fn expected(thread: &str) -> u32 {
    let starts_itself = ["vmm", "machine", "starter"].contains(&thread) || thread.starts_with("cpu");
    if starts_itself { 1 } else { 2 }
}

fn seccomp(vm: &TestVm<'_>) -> Option<bool> {
    vm.info()["seccomp"].as_bool()
}

#[test]
fn every_thread_of_a_monitor_has_a_filter_unless_someone_debugs_it() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--cpus", "2", "--no-seccomp"]);
    assert_eq!(seccomp(&vm), Some(false));
    let found = threads(&vm.monitor());
    assert!(found.values().all(|(filters, _)| *filters == 0), "{found:?}");
    assert!(!found.contains_key("starter"), "{found:?}");
    vm.stop().succeeded();

    // The next start is none of the last one's business.
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(seccomp(&vm), Some(true));
    each_thread_is_held_to_its_role(&vm);
    if engine() == "software" {
        what_the_monitor_starts_does_not_inherit_its_filters(&vm);
    }
    a_machine_has_all_it_needs(&vm);
    home.vmm(["kill", "box"]).run().succeeded();
    assert_eq!(home.state_of("box").as_deref(), Some("stopped"));
    home.vmm(["start", "--no-seccomp", "box"]).run().succeeded();
    assert_eq!(seccomp(&vm), Some(false));
}

fn each_thread_is_held_to_its_role(vm: &TestVm<'_>) {
    let found = threads(&vm.monitor());
    for expected in ["vmm", "machine", "starter", "engine", "vsock", "blk-queue-0"] {
        assert!(found.contains_key(expected), "no thread {expected} in {found:?}");
    }
    let free: Vec<_> = found.iter().filter(|(name, held)| **held != (expected(name), true)).collect();
    assert!(free.is_empty(), "not held to their role: {free:?}");
}

fn what_the_monitor_starts_does_not_inherit_its_filters(vm: &TestVm<'_>) {
    let others = vm.processes();
    let supervisor = others.iter().find(|process| process.command.contains("--supervise-qemu"));
    // It puts none on itself: QEMU is given its own, beyond the supervisor.
    let threads = threads(supervisor.expect("the software engine has a supervisor"));
    assert!(threads.values().all(|(filters, _)| *filters == 0), "{threads:?}");
}

fn a_machine_has_all_it_needs(vm: &TestVm<'_>) {
    // Disks grow, shrink and are written through; sockets come and go.
    vm.shell("dd if=/dev/urandom of=/srv/big bs=1M count=8 && sync && rm /srv/big && fstrim -v / && sync")
        .succeeded();
    for _ in 0..3 {
        vm.exec(&["true"]).succeeded();
    }
}
