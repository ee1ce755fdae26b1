//! Commands that outlive who started them, and whoever waits for a command or a machine.

use rustix::process::Signal;
use vmm_tests::{Terminal, TestHome, TestVm};

#[test]
fn commands_outlive_who_started_them() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    a_shell_is_taken_over_by_another_terminal_and_left_running_by_a_key(&home, &vm);
    a_command_that_was_left_to_itself_is_listed_attached_to_and_waited_for(&home, &vm);
}

fn a_command_that_was_left_to_itself_is_listed_attached_to_and_waited_for(home: &TestHome, vm: &TestVm<'_>) {
    let script = "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo done; exit 3";
    let started = vm.exec_with(&["-d"], &["sh", "-c", script]).run().succeeded();
    let id = started.stdout().trim().to_owned();

    let number: u64 = id.parse().unwrap();
    let processes = home.json(&["processes", "box", "--json"]);
    let listed = processes.as_array().unwrap().iter().find(|process| process["process"] == number);
    let listed = listed.expect("it is listed");
    assert_eq!(listed["argv"][2], script);
    assert!(listed["exit"].is_null());
    let table = home.vmm(["processes", "box"]).run().succeeded().stdout();
    assert!(table.contains("running") && table.contains("until [ -e /tmp/go ]"), "{table}");

    // Whoever only looks at it does not end it.
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut leaving = home.vmm(["attach", "box", &id]).start();
        leaving.expect("begun");
        leaving.signal(signal);
        let (status, said) = leaving.end();
        assert_eq!(status, 0);
        assert!(said.contains("goes on"), "{said}");
    }
    let mut attached = home.vmm(["attach", "box", &id]).start();
    attached.expect("begun");
    let waiting = home.vmm(["wait", "box", "--process", &id]).start();
    vm.exec(&["touch", "/tmp/go"]).succeeded();
    assert_eq!(attached.expect("done"), "begun\ndone\n");
    assert_eq!(attached.end().0, 3);
    assert_eq!(waiting.end().0, 3);

    let table = home.vmm(["processes", "box"]).run().succeeded().stdout();
    assert!(table.contains("exited with code 3"), "{table}");
    let late = home.vmm(["attach", "box", &id]).run().ended_with(3);
    assert_eq!(late.stdout(), "begun\ndone\n", "what it wrote is kept");
    home.vmm(["attach", "box", "4711"]).run().refused_saying(&["4711"]);
    home.vmm(["wait", "box", "--process", "4711"]).run().refused_saying(&["4711"]);
    home.vmm(["wait", "box", "right", "--process", &id]).run().refused_saying(&["one VM"]);
}

fn a_shell_is_taken_over_by_another_terminal_and_left_running_by_a_key(home: &TestHome, vm: &TestVm<'_>) {
    let mut first = Terminal::run(vm.exec_with(&["-it"], &["sh"]), 24, 80);
    first.sees("# ");
    first.types_line("here=$((40+2))");
    first.sees("# ");
    let id = home.json(&["processes", "box", "--json"])[0]["process"].to_string();

    let mut second = Terminal::run(home.vmm(["attach", "box", &id]), 30, 100);
    first.sees("goes on");
    assert_eq!(first.ends(), 0);
    second.types_line("echo still=$here; stty size");
    second.sees("still=42");
    second.sees("30 100");
    second.presses_control(']');
    second.sees("goes on");
    assert_eq!(second.ends(), 0);

    let listed = &home.json(&["processes", "box", "--json"])[0];
    assert_eq!((listed["attached"].as_bool(), listed["exit"].is_null()), (Some(false), true));
    let mut third = Terminal::run(home.vmm(["attach", "box", &id]), 24, 80);
    third.types_line("exit 5");
    assert_eq!(third.ends(), 5);
}

#[test]
fn a_machine_is_started_anew_and_waited_for() {
    let home = TestHome::new();
    let vm = home.machine("again", &[]);
    vm.shell("touch /srv/kept /run/lost").succeeded();
    let mut waiting = home.vmm(["wait", "again"]).start();
    let restarted = home.vmm(["restart", "again"]).run().succeeded();
    assert_eq!(restarted.stdout(), "again\n");
    waiting.expect("again");
    assert_eq!(waiting.end().0, 0);
    vm.shell("[ -e /srv/kept ] && [ ! -e /run/lost ]").succeeded();

    let mut waiting = home.vmm(["wait", "again"]).start();
    vm.stop().succeeded();
    waiting.expect("again");
    assert_eq!(waiting.end().0, 0);
    // It has stopped already.
    home.vmm(["wait", "again"]).run().succeeded();

    home.vmm(["restart", "again"]).run().succeeded();
    let waiting = home.vmm(["wait", "again"]).start();
    vm.monitor().kill();
    let (status, said) = waiting.end();
    assert_eq!(status, 125);
    assert!(said.contains("monitor"), "{said}");
    home.wait_until_quiet();
    home.vmm(["restart", "again", "nobody"]).run().refused_saying(&["nobody"]);
    home.vmm(["wait", "again", "nobody"]).run().refused_saying(&["nobody"]);
    assert_eq!(home.state_of("again").as_deref(), Some("crashed"), "it was not started");
}
