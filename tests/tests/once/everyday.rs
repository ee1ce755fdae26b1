//! Living with machines day by day: looking at them, calling them otherwise, reading what they said, making room.

use serde_json::{Value, json};
use vmm_tests::{TestHome, TestVm};

#[test]
fn all_that_is_known_of_a_machine_and_all_that_it_said_is_told() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--env", "GREETING=hello", "--stop-timeout", "3s"]);
    vm.exec(&["true"]).succeeded();
    let told = home.json(&["inspect", "box"]);
    let told = &told[0];
    assert_eq!((&told["name"], &told["state"]), (&json!("box"), &json!("running")));
    assert_eq!(told["environment"], json!({"GREETING": "hello"}));
    assert_eq!(told["stop_timeout_ms"], 3000);
    assert_eq!(
        (&told["disks"][0]["device"], &told["disks"][0]["serial"]),
        (&json!("/dev/vda"), &json!("root"))
    );
    let layers = told["disks"][0]["layers"].as_array().unwrap();
    assert!(layers.len() >= 2, "{told}");
    for path in ["folder", "kernel", "initramfs", "console_log", "control_socket", "vsock_socket"] {
        let path = std::path::Path::new(told[path].as_str().unwrap());
        assert!(path.exists(), "{}", path.display());
    }
    assert!(layers.iter().all(|layer| layer["disk_size"].as_u64() > Some(0)), "{told}");
    home.vmm(["inspect", "bax"]).run().refused_saying(&["bax", "did you mean box?"]);
    home.vmm(["inspect", "alpine"]).run().refused_saying(&["vmm images inspect alpine"]);

    a_person_reads_the_end_of_a_log_and_what_is_new_in_it(&home, &vm);
    what_a_command_wrote_is_read_without_taking_it_from_whoever_is_attached(&home, &vm);

    vm.stop().succeeded();
    let told = home.json(&["inspect", "box"]);
    assert_eq!((&told[0]["state"], &told[0]["end"]["reason"]), (&json!("stopped"), &json!("stopped")));
}

fn a_person_reads_the_end_of_a_log_and_what_is_new_in_it(home: &TestHome, vm: &TestVm<'_>) {
    vm.shell("for i in 1 2 3; do echo word $i > /dev/console; done").succeeded();
    home.vmm(["logs", "-f", "box"]).start().expect("word 3");
    let last = home.vmm(["logs", "--tail", "2", "box"]).run().succeeded().stdout();
    assert_eq!(last.replace('\r', ""), "word 2\nword 3\n");
    let since = home.vmm(["logs", "--since", "1h", "box"]).run().succeeded().stdout();
    assert!(since.contains("word 1"), "{since}");
    let none = home.vmm(["logs", "--since", "2099-01-01", "box"]).run().succeeded().stdout();
    assert_eq!(none, "");
    // What comes later than a moment, and nothing of before.
    vm.exec(&["sleep", "3"]).succeeded();
    vm.shell("echo later > /dev/console").succeeded();
    home.vmm(["logs", "-f", "box"]).start().expect("later");
    let since = home.vmm(["logs", "--since", "2s", "box"]).run().succeeded().stdout();
    assert_eq!(since.replace('\r', ""), "later\n");
    home.vmm(["logs", "--since", "some day", "box"]).run().ended_with(125);
}

fn what_a_command_wrote_is_read_without_taking_it_from_whoever_is_attached(home: &TestHome, vm: &TestVm<'_>) {
    let script = "echo out; echo err >&2; read line; echo got $line";
    let id =
        vm.exec_with(&["-d"], &["sh", "-c", "echo out; echo err >&2; exit 3"]).run().succeeded().stdout();
    home.vmm(["wait", "box", "--process", id.trim()]).run().ended_with(3);
    let read = home.vmm(["logs", "box", "--process", id.trim()]).run().succeeded();
    assert_eq!((read.stdout().as_str(), read.stderr().as_str()), ("out\n", "err\n"));
    let read = home.json(&["logs", "--json", "box", "--process", id.trim()]);
    assert_eq!((&read["stdout"], &read["status"]), (&json!("out\n"), &json!({"exited": 3})));

    let mut attached = vm.exec_with(&["-i"], &["sh", "-c", script]).start();
    attached.expect("out");
    let processes = home.json(&["processes", "--json", "box"]);
    let running = processes.as_array().unwrap().iter().find(|process| process["attached"] == true).unwrap();
    let id = running["process"].to_string();
    let read = home.vmm(["logs", "box", "--process", &id]).run().succeeded();
    assert_eq!((read.stdout().as_str(), read.stderr().as_str()), ("out\n", "err\n"));
    attached.write(b"it\n");
    attached.expect("got it");
    assert_eq!(attached.end().0, 0);
    home.vmm(["logs", "box", "--process", "99"]).run().refused_saying(&["99"]);
}

#[test]
fn a_machine_gets_another_name_while_it_runs_and_when_it_does_not() {
    let home = TestHome::new();
    let vm = home.machine("before", &[]);
    let other = home.vmm(["clone", "before", "taken"]).run();
    other.succeeded();
    home.vmm(["rename", "before", "taken"]).run().refused_saying(&["taken", "in use"]);
    home.vmm(["rename", "before", "no/name"]).run().refused_saying(&["no/name"]);
    home.vmm(["rename", "before", "after"]).run().succeeded();
    // The old name is nobody's, the machine is the same and runs on.
    home.vmm(["exec", "before", "--", "true"]).run().refused_saying(&["before"]);
    let said = home.vmm(["exec", "after", "--", "hostname"]).run().succeeded().stdout();
    assert_eq!(said, "before\n");
    // What its monitor writes down keeps the name.
    home.vmm(["snapshot", "create", "after", "kept"]).run().succeeded();
    assert_eq!(home.state_of("after").as_deref(), Some("running"));
    home.vmm(["rename", "taken", "before"]).run().succeeded();

    home.vmm(["stop", "after"]).run().succeeded();
    let renamed = home.json(&["rename", "--json", "after", "last"]);
    assert_eq!(renamed[0]["name"], "last");
    home.vmm(["start", "last"]).run().succeeded();
    let said = home.vmm(["exec", "last", "--", "hostname"]).run().succeeded().stdout();
    assert_eq!(said, "last\n");
    home.vmm(["kill", "last"]).run().succeeded();
    home.vmm(["rm", "last", "before"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
    drop(vm);
}

#[test]
fn a_machine_that_is_to_leave_nothing_has_a_name_while_it_runs() {
    let home = TestHome::new();
    let vm = home.machine("brief", &["--rm"]);
    vm.exec(&["true"]).succeeded();
    assert_eq!(vm.info()["removed_at_end"], true);
    vm.stop().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
    home.vmm(["run", "--rm", "--name", "brief", "alpine", "--", "true"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
    // And one that is killed with its monitor leaves nothing to whoever looks next.
    let vm = home.machine("brief", &["--rm"]);
    let monitor = vm.monitor();
    monitor.kill();
    assert!(monitor.ends_within(vmm_tests::PATIENCE));
    home.wait_until_quiet();
    assert_eq!(home.ps(), Vec::<Value>::new());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_guest_that_does_not_shut_down_has_the_time_that_it_was_created_with() {
    let home = TestHome::new();
    let vm = home.machine("slow", &["--stop-timeout", "100ms"]);
    vm.exec_with(&["-d"], &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]).run().succeeded();
    let stopped = home.json(&["stop", "--json", "slow"]);
    assert_eq!(stopped[0]["name"], "slow");
    assert_eq!(stopped[0]["end"]["reason"], "stopped");
    home.vmm(["run", "--stop-timeout", "soon", "alpine"]).run().ended_with(125);
}

#[test]
fn what_does_not_run_is_removed_by_prune_when_that_is_meant() {
    let home = TestHome::new();
    let _stays = home.machine("stays", &[]);
    let _goes = home.machine("goes", &[]);
    home.vmm(["stop", "goes"]).run().succeeded();
    let planned = home.json(&["prune", "--dry-run", "--json"]);
    assert_eq!(planned["vms"].as_array().unwrap().len(), 1, "{planned}");
    assert_eq!(planned["vms"][0]["name"], "goes");
    // Nobody is there to be asked.
    home.vmm(["prune"]).run().ended_with(125);
    assert_eq!(home.state_of("goes").as_deref(), Some("stopped"));
    let said = home.vmm(["prune", "--force"]).run().succeeded().stdout();
    assert!(said.contains("VM goes (stopped") && said.contains("freed"), "{said}");
    assert_eq!(home.state_of("goes"), None);
    assert_eq!(home.state_of("stays").as_deref(), Some("running"));
}
