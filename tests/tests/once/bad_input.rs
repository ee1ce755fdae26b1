//! What cannot be is refused in one line that says what would do, and nothing is left of the attempt.

use vmm_tests::TestHome;

fn refused(arguments: &[&str], words: &[&str]) {
    let home = TestHome::new();
    home.vmm(arguments).run().refused_saying(words);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn an_image_that_nobody_knows() {
    refused(&["run", "no-such-image", "--", "true"], &["no-such-image", "alpine"]);
    refused(&["pull", "no-such-image"], &["no-such-image", "alpine"]);
    refused(&["run", "alpine:1.0", "--", "true"], &["alpine:1.0", "3.23"]);
    refused(&["run", "../alpine", "--", "true"], &["../alpine"]);
}

#[test]
fn a_name_that_is_none() {
    for name in ["a/b", "..", "../x", ".hidden", "", "a b"] {
        refused(&["run", "--name", name, "alpine", "--", "true"], &["name"]);
    }
}

#[test]
fn a_name_in_use() {
    let home = TestHome::new();
    let vm = home.machine("taken", &[]);
    home.vmm(["run", "--name", "taken", "alpine", "--", "true"]).run().refused_saying(&["taken", "vmm rm"]);
    vm.stop().succeeded();
    home.vmm(["run", "--name", "taken", "alpine", "--", "true"]).run().refused_saying(&["taken", "vmm rm"]);
}

#[test]
fn less_memory_than_boots_says_the_minimum() {
    let home = TestHome::new();
    for size in ["1M", "64M", "0"] {
        let refusal = home.vmm(["run", "--memory", size, "alpine", "--", "true"]).run().ended_with(125);
        assert!(refusal.stderr().contains("96M"), "{}", refusal.stderr());
    }
    // And the minimum does boot.
    home.vmm(["run", "--memory", "96M", "alpine", "--", "true"]).run().succeeded();
}

#[test]
fn values_that_are_none() {
    let home = TestHome::new();
    for arguments in [
        vec!["run", "--memory", "lots", "alpine"],
        vec!["run", "--cpus", "0", "alpine", "--", "true"],
        vec!["run", "--cpus", "many", "alpine"],
        vec!["run", "--cpus", "256", "alpine", "--", "true"],
        // KVM may well permit so many.
        vec!["run", "--engine", "software", "--cpus", "200", "alpine", "--", "true"],
        vec!["run", "--engine", "steam", "alpine", "--", "true"],
        vec!["run", "--init", "systemd", "alpine", "--", "true"],
        vec!["run", "--timeout", "soon", "alpine", "--", "true"],
        vec!["run", "--env", "=x", "alpine", "--", "true"],
        vec!["run", "--no-such-option", "alpine"],
        vec!["run"],
        vec!["exec"],
        vec!["frobnicate"],
    ] {
        let refusal = home.vmm(&arguments).run().ended_with(125);
        assert!(!refusal.stderr().is_empty() && refusal.stdout().is_empty(), "{arguments:?}");
    }
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_kernel_that_is_none() {
    let home = TestHome::new();
    let kernel = home.path().join("not-a-kernel");
    std::fs::write(&kernel, "hello").unwrap();
    let kernel = kernel.to_str().unwrap();
    home.vmm(["run", "--kernel", kernel, "alpine", "--", "true"]).run().refused_saying(&["not-a-kernel"]);
    home.vmm(["run", "--kernel", "/no/such/file", "alpine", "--", "true"])
        .run()
        .refused_saying(&["/no/such/file"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_user_or_a_folder_that_the_guest_has_not() {
    let home = TestHome::new();
    let vm = home.machine("strict", &[]);
    let refusal = vm.exec_with(&["-u", "nobody-here"], &["true"]).run();
    assert!(refusal.stderr().contains("nobody-here"), "{}", refusal.stderr());
    assert_eq!(refusal.status(), 125);
    let refusal = vm.exec_with(&["-w", "/no/such/folder"], &["true"]).run();
    assert!(refusal.stderr().contains("/no/such/folder"), "{}", refusal.stderr());
    assert_eq!(refusal.status(), 125);
}

#[test]
fn host_hardware_that_is_required_and_not_there() {
    let home = TestHome::new();
    let doctor = home.vmm(["doctor", "--json"]).run().stdout();
    let doctor: serde_json::Value = serde_json::from_str(&doctor).unwrap();
    let engines = doctor["engines"].as_array().unwrap();
    if engines.iter().any(|engine| engine["kind"] != "software" && engine["usable"] == true) {
        vmm_tests::skip!("this machine has hardware virtualization");
    }
    home.vmm(["run", "--engine", "auto", "--require-hardware", "alpine", "--", "true"])
        .run()
        .refused_saying(&["hardware"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
