//! `vmm run --console virtio`: a guest whose console is no serial port.

use serde_json::Value;
use vmm_tests::{TestHome, TestVm, engine, skip};

const VIRTIO: [&str; 2] = ["--console", "virtio"];

/// How often a VM's processors left the guest for a device until it was ready.
fn exits_for(vm: &TestVm<'_>, device: &str) -> u64 {
    let info = vm.info();
    let accesses = &info["exits"]["until_ready"]["devices"][device];
    let count =
        |kind: &str| accesses[kind].as_u64().unwrap_or_else(|| panic!("no {kind} of {device}: {info}"));
    count("reads") + count("writes")
}

#[test]
fn kvm_what_a_guest_writes_to_its_virtio_console_is_in_the_log_also_after_a_new_start() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let vm = home.machine("talks", &VIRTIO);
    assert_eq!(vm.info()["console"], "virtio");
    assert_eq!(vm.exec(&["cat", "/sys/class/tty/console/active"]).succeeded().stdout(), "hvc0\n");
    let mut follow = home.vmm(["logs", "-f", "talks"]).start();
    vm.shell("echo a word from inside > /dev/console").succeeded();
    follow.expect("a word from inside");
    vm.stop().succeeded();
    assert_eq!(follow.end().0, 0);
    home.vmm(["start", "talks"]).run().succeeded();
    vm.shell("echo another > /dev/console").succeeded();
    home.vmm(["logs", "-f", "talks"]).start().expect("another");
}

#[test]
fn kvm_much_text_arrives_whole_on_a_virtio_console() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let vm = home.machine("loud", &VIRTIO);
    vm.shell("seq 2000 > /dev/console; echo the end > /dev/console").succeeded();
    let said = home.vmm(["logs", "-f", "loud"]).start().expect("the end");
    let lines: Vec<&str> = said.lines().collect();
    let expected: Vec<String> = (1..=2000).map(|number| number.to_string()).collect();
    assert!(lines.windows(expected.len()).any(|window| window == expected), "{} lines", lines.len());
}

#[test]
fn kvm_a_guest_that_panics_shows_its_last_words_on_a_virtio_console() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let run = ["run", "--name", "dies", "--console", "virtio", "alpine", "--"];
    let run =
        home.vmm(run.into_iter().chain(["sh", "-c", "echo c > /proc/sysrq-trigger"])).run().ended_with(125);
    assert!(run.stderr().contains("Kernel panic - not syncing: sysrq"), "{}", run.stderr());
    let log = home.vmm(["logs", "dies"]).run().succeeded().stdout();
    assert!(log.contains("Kernel panic - not syncing: sysrq"), "{log}");
}

#[test]
fn kvm_a_kernels_first_words_come_before_there_is_a_virtio_console() {
    if engine() == "software" {
        skip!("QEMU has no virtio console from elsewhere");
    }
    let home = TestHome::new();
    let vm = home.machine("early", &["--console", "virtio", "--cmdline", "loglevel=7"]);
    let log = home.vmm(["logs", "early"]).run().succeeded().stdout();
    // Once: the virtio console does not say again what the early one said, and goes on where that ends.
    assert_eq!(log.matches("Freeing initrd memory").count(), 1, "{log}");
    assert!(log.contains("EXT4-fs (vda"), "{log}");
    assert!(exits_for(&vm, "serial") > 1000, "the first words come by the serial port");
}

#[test]
fn kvm_a_quiet_boot_costs_fewer_exits_with_a_virtio_console() {
    if engine() == "software" {
        skip!("the software engine counts no exits");
    }
    let home = TestHome::new();
    let total = |vm: &TestVm<'_>| {
        let exits: Value = vm.info()["exits"]["until_ready"].clone();
        println!("{exits}");
        exits["total"].as_u64().expect("the engine counts exits")
    };
    let serial = total(&home.machine("serial", &[]));
    let virtio = home.machine("virtio", &VIRTIO);
    assert!(exits_for(&virtio, "console") > 0);
    assert!(total(&virtio) < serial, "with the serial port it were {serial}");
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
