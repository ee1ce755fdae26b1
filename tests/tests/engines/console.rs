//! A guest's console: sitting at it with `vmm console`, and one that is no serial port, `vmm run --console virtio`.

use serde_json::Value;
use vmm_tests::{Terminal, TestHome, TestVm, engine, in_laboratory, skip};

const VIRTIO: [&str; 2] = ["--console", "virtio"];

/// How often a VM's processors left the guest for a device until it was ready.
fn exits_for(info: &Value, device: &str) -> u64 {
    let accesses = &info["exits"]["until_ready"]["devices"][device];
    let count =
        |kind: &str| accesses[kind].as_u64().unwrap_or_else(|| panic!("no {kind} of {device}: {info}"));
    count("reads") + count("writes")
}

/// Leaves a shell at the machine's console.
fn shell_at_console(vm: &TestVm<'_>) {
    let script = "exec setsid sh -i < /dev/console > /dev/console 2>&1";
    vm.exec_with(&["-d"], &["sh", "-c", script]).run().succeeded();
}

/// A person sits down at the shell, types, and leaves; another one is there when the machine ends.
fn sit_at_console(home: &TestHome, vm: &TestVm<'_>) {
    let mut terminal = Terminal::run(home.vmm(["console", vm.name()]), 24, 80);
    terminal.sees("Ctrl-] leaves the console");
    terminal.sees("#");
    terminal.types_line("echo $((6 * 7)) here");
    terminal.sees("42 here");
    terminal.presses_control(']');
    terminal.sees("goes on");
    assert_eq!(terminal.ends(), 0);
    // The shell is still there for whoever comes next, and sees what was said last.
    let mut terminal = Terminal::run(home.vmm(["console", vm.name()]), 24, 80);
    terminal.sees("42 here");
    terminal.types_line("echo $((6 * 8)) there");
    terminal.sees("48 there");
    // A shell that a person sits at is not told to end by a signal: the machine would wait for it.
    terminal.types_line("exit");
    vm.stop().succeeded();
    terminal.sees("has ended");
    assert_eq!(terminal.ends(), 0);
    let log = home.vmm(["logs", vm.name()]).run().succeeded().stdout();
    assert!(log.contains("42 here") && log.contains("48 there"), "{log}");
}

#[test]
fn people_sit_at_one_console_and_none_holds_up_the_guest() {
    let home = TestHome::new();
    let vm = home.machine("desk", &[]);
    shell_at_console(&vm);
    let mut reader = home.vmm(["console", "desk"]).start();
    // Whoever does not read, and is stopped in the middle of it.
    let mut idle = home.vmm(["console", "desk"]).start();
    idle.expect("#");
    idle.signal(rustix::process::Signal::STOP);
    let mut typist = home.vmm(["console", "desk"]).start();
    // They come in small pieces: so many fill the socket of whoever does not read. In the laboratory a line takes ten times
    // as long.
    let lines = if in_laboratory() { 1500 } else { 10_000 };
    typist.write(format!("seq {lines}; echo the $((3 * 3))th end\r").as_bytes());
    reader.expect("the 9th end");
    typist.expect("the 9th end");
    vm.exec(&["true"]).succeeded();
    // There is room for eight.
    let mut seats: Vec<_> = (0..5).map(|_| home.vmm(["console", "desk"]).start()).collect();
    seats.iter_mut().for_each(|seat| drop(seat.expect("end")));
    home.vmm(["console", "desk"]).run().refused_saying(&["too many sit at the VM's console"]);
    drop(seats);
    idle.signal(rustix::process::Signal::CONT);
    home.vmm(["console", "nobody"]).run().refused_saying(&["nobody"]);
    sit_at_console(&home, &vm);
    assert_eq!(reader.end().0, 0);
    home.vmm(["console", "desk"]).run().refused_saying(&["desk", "not running"]);
}

#[test]
fn kvm_a_virtio_console_is_sat_at_logged_and_cheaper_than_a_serial_port() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let exits = |vm: &TestVm<'_>| {
        let exits: Value = vm.info()["exits"]["until_ready"].clone();
        println!("{exits}");
        exits["total"].as_u64().expect("the engine counts exits")
    };
    let with_serial_port = exits(&home.machine("serial", &[]));
    let vm = home.machine("talks", &VIRTIO);
    assert_eq!(vm.info()["console"], "virtio");
    assert!(exits_for(&vm.info(), "console") > 0);
    assert!(exits(&vm) < with_serial_port, "with the serial port it were {with_serial_port}");
    assert_eq!(vm.exec(&["cat", "/sys/class/tty/console/active"]).succeeded().stdout(), "hvc0\n");
    much_text_arrives_whole(&home, &vm);

    let mut follow = home.vmm(["logs", "-f", "talks"]).start();
    shell_at_console(&vm);
    sit_at_console(&home, &vm);
    follow.expect("48 there");
    assert_eq!(follow.end().0, 0);
    home.vmm(["start", "talks"]).run().succeeded();
    vm.shell("echo a word from inside > /dev/console").succeeded();
    home.vmm(["logs", "-f", "talks"]).start().expect("a word from inside");
}

fn much_text_arrives_whole(home: &TestHome, vm: &TestVm<'_>) {
    vm.shell("seq 2000 > /dev/console; echo the end > /dev/console").succeeded();
    let said = home.vmm(["logs", "-f", vm.name()]).start().expect("the end");
    let lines: Vec<&str> = said.lines().collect();
    let expected: Vec<String> = (1..=2000).map(|number| number.to_string()).collect();
    assert!(lines.windows(expected.len()).any(|window| window == expected), "{} lines", lines.len());
}

#[test]
fn kvm_the_first_words_of_a_kernel_come_before_its_virtio_console_and_its_last_words_on_it() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let words = ["run", "-i", "--name", "dies", "--console", "virtio", "--cmdline", "loglevel=7", "alpine"];
    let script = ["--", "sh", "-c", "echo begun; read go; echo c > /proc/sysrq-trigger"];
    let mut run = home.vmm(words.into_iter().chain(script)).start();
    run.expect("begun");
    assert!(exits_for(&home.ps()[0], "serial") > 1000, "the first words come by the serial port");
    let log = home.vmm(["logs", "dies"]).run().succeeded().stdout();
    // Once: the virtio console does not say again what the early one said, and goes on where that ends.
    assert_eq!(log.matches("Freeing initrd memory").count(), 1, "{log}");
    assert!(log.contains("EXT4-fs (vda"), "{log}");

    run.write(b"go\n");
    run.expect_error("Kernel panic - not syncing: sysrq");
    assert_eq!(run.end().0, 125);
    let log = home.vmm(["logs", "dies"]).run().succeeded().stdout();
    assert!(log.contains("Kernel panic - not syncing: sysrq"), "{log}");
}

#[test]
fn kvm_the_images_own_init_speaks_on_a_virtio_console() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let vm = home.machine("init", &["--console", "virtio", "--init", "image"]);
    assert_eq!(vm.exec(&["cat", "/proc/1/comm"]).succeeded().stdout(), "init\n");
    home.vmm(["logs", "-f", "init"]).start().expect("OpenRC");
}

#[test]
fn host_the_software_engine_says_that_it_has_no_virtio_console() {
    if engine() != "software" {
        skip!("it is the software engine that refuses it");
    }
    let home = TestHome::new();
    let run = home.vmm(["run", "--engine", "software", "--console", "virtio", "alpine", "--", "true"]).run();
    run.refused_saying(&["the software engine has no virtio console", "hardware virtualization"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
