//! `vmm run --balloon` and `vmm balloon`: memory of a guest that goes back to the host.

use std::time::Instant;

use serde_json::Value;
use vmm_tests::{PATIENCE, TestHome, TestVm, engine, skip};

const SIZE: [&str; 3] = ["--memory", "256M", "--balloon"];

const MEBIBYTE: u64 = 1 << 20;

/// What `vmm balloon` says, after it set a target if one is given.
fn balloon(home: &TestHome, vm: &TestVm<'_>, size: Option<&str>) -> Value {
    let arguments: Vec<_> = ["balloon", "--json", vm.name()].into_iter().chain(size).collect();
    home.json(&arguments)
}

/// Waits for something that the guest does in its own time.
fn wait_until(vm: &TestVm<'_>, what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // The guest lives.
        vm.exec(&["sleep", "0.3"]).succeeded();
    }
}

/// How much memory the guest's programs can have, in MiB.
fn available(vm: &TestVm<'_>) -> u64 {
    let text = vm.shell("free -m | awk '/^Mem:/ { print $NF }'").succeeded().stdout();
    text.trim().parse().expect("a number")
}

/// How much memory the monitor has in the host's, its guest's with it, in MiB.
fn resident(vm: &TestVm<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.monitor().pid)).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn kvm_a_guest_does_without_what_it_is_asked_for_and_gets_it_back() {
    if engine() == "software" {
        skip!("QEMU has no balloon from elsewhere");
    }
    let home = TestHome::new();
    let vm = home.machine_with_usual_memory("box", &SIZE);
    it_leaves_the_guest_64_mebibytes(&home, &vm);
    it_is_filled_and_emptied(&home, &vm);
    a_target_outlives_no_run(&home, &vm);
    // In a guest that has just booted: of one that has worked, much memory is there and free.
    memory_that_a_guest_frees_goes_back_to_the_host_by_itself(&vm);
    balloon(&home, &vm, Some("32M"));
    wait_until(&vm, "the guest does without 32M", || balloon(&home, &vm, None)["actual"] == 32 * MEBIBYTE);
}

fn it_leaves_the_guest_64_mebibytes(home: &TestHome, vm: &TestVm<'_>) {
    let refused = home.vmm(["balloon", "box", "193M"]).run();
    refused.refused_saying(&["a guest with 256M of memory can do without 192M at most"]);
    assert_eq!(balloon(home, vm, None)["target"], 0);
}

fn it_is_filled_and_emptied(home: &TestHome, vm: &TestVm<'_>) {
    assert_eq!(vm.info()["balloon"], true);
    let before = available(vm);
    // What the kernel keeps of files stays in the guest's memory: the balloon has to press it out.
    vm.shell("dd if=/dev/zero of=/var/x bs=1M count=160 2>/dev/null; sync; cat /var/x > /dev/null")
        .succeeded();
    let full = resident(vm);
    let asked = balloon(home, vm, Some("160M"));
    assert_eq!(asked["target"], 160 * MEBIBYTE);
    wait_until(vm, "the guest does without 160M", || balloon(home, vm, None)["actual"] == 160 * MEBIBYTE);
    let said = home.vmm(["balloon", "box"]).run().succeeded().stdout();
    assert_eq!(said, "box is asked to do without 160M, and does without 160M\n");
    let pressed = resident(vm);
    println!("resident: {full} MiB before, {pressed} MiB with a balloon of 160 MiB");
    assert!(pressed + 64 <= full, "{full} MiB became {pressed}");
    let left = available(vm);
    assert!(left + 100 <= before, "of {before} MiB the guest has {left}");

    balloon(home, vm, Some("0"));
    wait_until(vm, "the guest has all back", || balloon(home, vm, None)["actual"] == 0);
    // While free pages are reported to the host, up to 128 MiB at once, nobody in the guest can have them.
    wait_until(vm, "its programs have all back", || available(vm) + 32 >= before);
    vm.shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=80 2>/dev/null && rm /dev/shm/x").succeeded();
}

fn a_target_outlives_no_run(home: &TestHome, vm: &TestVm<'_>) {
    balloon(home, vm, Some("32M"));
    vm.stop().succeeded();
    let not_running = home.vmm(["balloon", "box", "32M"]).run();
    not_running.refused_saying(&["the VM box is not running", "vmm start box"]);
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(balloon(home, vm, None)["target"], 0);
}

fn memory_that_a_guest_frees_goes_back_to_the_host_by_itself(vm: &TestVm<'_>) {
    let before = resident(vm);
    vm.shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=80 2>/dev/null").succeeded();
    let full = resident(vm);
    assert!(full >= before + 48, "{before} MiB became {full}");
    vm.exec(&["rm", "/dev/shm/x"]).succeeded();
    wait_until(vm, "48 MiB went back", || resident(vm) + 48 <= full);
}

/// Who says so knows no engine.
#[test]
fn host_a_machine_without_a_balloon_says_so_and_what_to_do() {
    let home = TestHome::new();
    let vm = home.machine_with_usual_memory("plain", &[]);
    assert_eq!(vm.info()["balloon"], false);
    for arguments in [&["balloon", "plain"][..], &["balloon", "plain", "32M"]] {
        home.vmm(arguments).run().refused_saying(&["the VM plain has no balloon", "vmm run --balloon"]);
    }
    home.vmm(["balloon", "nobody"]).run().refused_saying(&["nobody"]);
}

#[test]
fn host_the_software_engine_says_that_it_has_no_balloon() {
    if engine() != "software" {
        skip!("it is the software engine that refuses it");
    }
    let home = TestHome::new();
    let run = home.vmm(["run", "--engine", "software", "--balloon", "alpine", "--", "true"]).run();
    run.refused_saying(&["the software engine has no virtio balloon", "hardware virtualization"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
