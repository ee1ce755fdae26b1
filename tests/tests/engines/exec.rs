//! `vmm exec`: many commands in one machine, and every byte of what goes in and out.

use std::os::unix::process::CommandExt;

use vmm_tests::{TestHome, in_laboratory, random};

#[test]
fn many_mebibytes_arrive_intact_and_come_back_intact() {
    let home = TestHome::new();
    let vm = home.machine("bytes", &[]);
    // In a machine in a machine that are both emulated, a hundred take as long as ten machines' lives.
    let bytes = random(if in_laboratory() { 16 << 20 } else { 100 << 20 });
    let file = home.path().join("random");
    std::fs::write(&file, &bytes).unwrap();
    let here = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
    let here = String::from_utf8_lossy(&here.stdout).split_whitespace().next().unwrap().to_owned();
    let there = vm.exec_with(&["-i"], &["sha256sum"]).stdin(bytes.clone()).run().succeeded();
    assert_eq!(there.stdout().split_whitespace().next(), Some(here.as_str()));
    let back = vm.exec_with(&["-i"], &["cat"]).stdin(bytes.clone()).run().succeeded();
    assert!(back.stdout_bytes() == bytes, "{} bytes came back", back.stdout_bytes().len());
}

#[test]
fn many_commands_at_once_keep_their_output_to_themselves() {
    let home = TestHome::new();
    let vm = home.machine("many", &[]);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..30)
            .map(|number| {
                let vm = &vm;
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

#[test]
fn a_command_can_be_left_to_itself() {
    let home = TestHome::new();
    let vm = home.machine("detached", &[]);
    let id = vm.exec_with(&["-d"], &["sh", "-c", "echo done > /tmp/left; exec sleep 1000"]).run().succeeded();
    assert!(!id.stdout().trim().is_empty());
    vm.shell("until [ -s /tmp/left ]; do sleep 0.05; done; pidof sleep").succeeded();
}

#[test]
fn a_flood_that_nobody_reads_is_held_back() {
    let home = TestHome::new();
    let vm = home.machine("flood", &[]);
    let mut reader = std::process::Command::new("sh");
    // The reader never reads.
    reader.args([
        "-c",
        "\"$VMM_BIN\" exec flood -- sh -c 'yes | head -c 300000000; echo > /tmp/end' | sleep 1000",
    ]);
    let before = private_memory(vm.monitor().pid);
    let mut flood = home.in_home(reader).process_group(0).spawn().unwrap();
    vm.shell("until pidof yes; do sleep 0.05; done; sleep 2; ! [ -e /tmp/end ]").succeeded();
    let after = private_memory(vm.monitor().pid);
    assert!(after < before + 16 * 1024, "the monitor grew from {before} to {after} KiB");
    let group = rustix::process::Pid::from_child(&flood);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    flood.wait().unwrap();
    vm.exec(&["true"]).succeeded();
}

/// What a process has for itself in KiB, whatever it shares.
fn private_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
    lines.map(|rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn control_c_reaches_the_command_and_the_machine_lives_on() {
    let home = TestHome::new();
    let vm = home.machine("interrupt", &[]);
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut run = vm.exec_with(&[], &["sh", "-c", script]).start();
    run.expect("ready");
    run.signal(rustix::process::Signal::INT);
    run.expect("caught");
    assert_eq!(run.end().0, 3);
    vm.exec(&["true"]).succeeded();
}

#[test]
fn a_timeout_ends_everything_that_the_command_started() {
    let home = TestHome::new();
    let vm = home.machine("timeout", &[]);
    vm.exec_with(&["--timeout", "1s"], &["sh", "-c", "sleep 1234 & sleep 1234"]).run().ended_with(124);
    vm.shell("! pgrep -f 'sleep 123[4]'").succeeded();
}

#[test]
fn a_machine_that_does_not_run_takes_no_command() {
    let home = TestHome::new();
    let vm = home.machine("stopped", &[]);
    vm.stop().succeeded();
    vm.exec(&["true"]).refused_saying(&["stopped", "not running", "vmm start"]);
    home.vmm(["exec", "nobody", "--", "true"]).run().refused_saying(&["nobody", "vmm ps"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_command() {
    let home = TestHome::new();
    let vm = home.machine("pipe", &[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "\"$VMM_BIN\" exec pipe -- yes | head -n 1"]);
    let output = home.in_home(shell).output().unwrap();
    assert_eq!(output.stdout, b"y\n");
    vm.shell("! pidof yes").succeeded();
}
