//! `vmm exec`: many commands in one machine, and every byte of what goes in and out.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process_group};
use vmm_tests::{PATIENCE, TestHome, TestVm, in_laboratory, random};

#[test]
fn one_machine_serves_commands_of_every_kind() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    the_guest_is_as_programs_expect_it(&vm);
    orphans_are_reaped(&vm);
    files_written_under_a_users_name_are_the_users(&vm);
    a_command_that_is_missing_or_no_program_has_a_shells_status(&vm);
    a_reader_that_goes_away_ends_the_command(&home, &vm);
    // Before the monitor has had much to carry: what it kept of that, a flood could fill unseen.
    a_flood_that_nobody_reads_is_held_back(&home, &vm);
    many_mebibytes_arrive_intact_and_come_back_intact(&home, &vm);
    many_commands_at_once_keep_their_output_to_themselves(&vm);
    a_command_can_be_left_to_itself(&vm);
    control_c_reaches_the_command_and_the_machine_lives_on(&vm);
    a_timeout_ends_everything_that_the_command_started(&vm);
    a_guest_that_powers_itself_off_is_stopped(&home, &vm);
    a_machine_that_does_not_run_takes_no_command(&home, &vm);
}

fn the_guest_is_as_programs_expect_it(vm: &TestVm<'_>) {
    assert_eq!(vm.exec(&["hostname"]).succeeded().stdout(), "box\n");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let guest: u64 = vm.exec(&["date", "+%s"]).succeeded().stdout().trim().parse().unwrap();
    assert!(guest.abs_diff(now) < 30, "guest {guest}, host {now}");
    let mounts = vm.exec(&["cat", "/proc/mounts"]).succeeded().stdout();
    for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp", "/sys/fs/cgroup"] {
        assert!(mounts.lines().any(|line| line.split(' ').nth(1) == Some(place)), "{place} in:\n{mounts}");
    }
}

fn orphans_are_reaped(vm: &TestVm<'_>) {
    // A grandchild outlives its parent, ends, and is gone.
    vm.shell("(sleep 0.1 & echo $! > /tmp/orphan); sleep 0.5; ! [ -e /proc/$(cat /tmp/orphan) ]").succeeded();
}

fn files_written_under_a_users_name_are_the_users(vm: &TestVm<'_>) {
    let said = vm
        .exec_with(&["-u", "1000:1000"], &["sh", "-c", "touch /tmp/mine; stat -c %u:%g /tmp/mine"])
        .run()
        .succeeded();
    assert_eq!(said.stdout(), "1000:1000\n");
}

fn a_command_that_is_missing_or_no_program_has_a_shells_status(vm: &TestVm<'_>) {
    vm.exec(&["no-such-program"]).ended_with(127);
    vm.exec(&["/no/such/program"]).ended_with(127);
    vm.exec(&["/etc/os-release"]).ended_with(126);
    vm.exec(&["/etc"]).ended_with(126);
    vm.shell("kill -TERM $$").ended_with(128 + 15);
    vm.shell("kill -KILL $$").ended_with(128 + 9);
    vm.shell("exit 255").ended_with(255);
}

fn a_reader_that_goes_away_ends_the_command(home: &TestHome, vm: &TestVm<'_>) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$VMM_BIN\" exec box -- yes | head -n 1"]);
    let output = home.in_home(shell).output().unwrap();
    assert_eq!(output.stdout, b"y\n");
    vm.shell("! pidof yes").succeeded();
}

fn a_flood_that_nobody_reads_is_held_back(home: &TestHome, vm: &TestVm<'_>) {
    let mut reader = Command::new("sh");
    // The reader never reads.
    reader.args([
        "-c",
        "\"$VMM_BIN\" exec box -- sh -c 'yes | head -c 300000000; echo > /tmp/end' | sleep 1000",
    ]);
    let before = private_memory(vm.monitor().pid);
    let mut flood = home.in_home(reader).process_group(0).spawn().unwrap();
    vm.shell("until pidof yes; do sleep 0.05; done; sleep 2; ! [ -e /tmp/end ]").succeeded();
    let after = private_memory(vm.monitor().pid);
    assert!(after < before + 16 * 1024, "the monitor grew from {before} to {after} KiB");
    kill_process_group(Pid::from_child(&flood), Signal::KILL).unwrap();
    flood.wait().unwrap();
    vm.exec(&["true"]).succeeded();
}

/// What a process has for itself in KiB, whatever it shares.
fn private_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
    lines.map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

fn many_mebibytes_arrive_intact_and_come_back_intact(home: &TestHome, vm: &TestVm<'_>) {
    // In a machine in a machine that are both emulated, a hundred take as long as ten machines' lives.
    let bytes = random(if in_laboratory() { 16 << 20 } else { 100 << 20 });
    let file = home.path().join("random");
    std::fs::write(&file, &bytes).unwrap();
    let here = Command::new("sha256sum").arg(&file).output().unwrap();
    let here = String::from_utf8_lossy(&here.stdout).split_whitespace().next().unwrap().to_owned();
    let there = vm.exec_with(&["-i"], &["sha256sum"]).stdin(bytes.clone()).run().succeeded();
    assert_eq!(there.stdout().split_whitespace().next(), Some(here.as_str()));
    let back = vm.exec_with(&["-i"], &["cat"]).stdin(bytes.clone()).run().succeeded();
    assert!(back.stdout_bytes() == bytes, "{} bytes came back", back.stdout_bytes().len());
}

fn many_commands_at_once_keep_their_output_to_themselves(vm: &TestVm<'_>) {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..30)
            .map(|number| {
                scope.spawn(move || {
                    let line = format!("echo {number}; echo {number} >&2; exit {number}");
                    (number, vm.shell(&line))
                })
            })
            .collect();
        for run in runs {
            let (number, finished) = run.join().unwrap();
            let finished = finished.ended_with(number);
            assert_eq!(finished.stdout(), format!("{number}\n"));
            assert_eq!(finished.stderr(), format!("{number}\n"));
        }
    });
}

fn a_command_can_be_left_to_itself(vm: &TestVm<'_>) {
    let id = vm.exec_with(&["-d"], &["sh", "-c", "echo done > /tmp/left; exec sleep 1000"]).run().succeeded();
    assert!(!id.stdout().trim().is_empty());
    vm.shell("until [ -s /tmp/left ]; do sleep 0.05; done; pidof sleep").succeeded();
}

fn control_c_reaches_the_command_and_the_machine_lives_on(vm: &TestVm<'_>) {
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut run = vm.exec_with(&[], &["sh", "-c", script]).start();
    run.expect("ready");
    run.signal(Signal::INT);
    run.expect("caught");
    assert_eq!(run.end().0, 3);
    vm.exec(&["true"]).succeeded();
}

fn a_timeout_ends_everything_that_the_command_started(vm: &TestVm<'_>) {
    vm.exec_with(&["--timeout", "1s"], &["sh", "-c", "sleep 1234 & sleep 1234"]).run().ended_with(124);
    vm.shell("! pgrep -f 'sleep 123[4]'").succeeded();
}

fn a_guest_that_powers_itself_off_is_stopped(home: &TestHome, vm: &TestVm<'_>) {
    let monitor = vm.monitor();
    vm.exec_with(&["-d"], &["poweroff"]).run().succeeded();
    assert!(monitor.ends_within(PATIENCE));
    assert_eq!(home.state_of("box").as_deref(), Some("stopped"));
}

fn a_machine_that_does_not_run_takes_no_command(home: &TestHome, vm: &TestVm<'_>) {
    vm.exec(&["true"]).refused_saying(&["the VM box is not running", "vmm start box"]);
    home.vmm(["exec", "nobody", "--", "true"]).run().refused_saying(&["nobody", "vmm ps"]);
}
