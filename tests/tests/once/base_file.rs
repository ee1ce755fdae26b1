//! A disk file boots from where it lies, and stays as it is.

use std::fs;
use std::process::Command;

use vmm_tests::{TestHome, skip};

/// Alpine's disk with its kernel on it, as one file of somebody's.
fn disk(home: &TestHome, name: &str) -> String {
    let path = home.path().join(name);
    home.vmm(["images", "export", "alpine", path.to_str().expect("a plain path")]).run().succeeded();
    path.display().to_string()
}

#[test]
fn a_disk_file_boots_and_is_not_written() {
    let home = TestHome::new();
    let disk = disk(&home, "my.qcow2");
    let before = fs::read(&disk).expect("the disk");
    // From its folder and from anywhere, with nothing imported.
    let run = |words: &[&str]| home.vmm([&["run"], words].concat()).run();
    let first = run(&["./my.qcow2", "--", "sh", "-c", "echo x >/etc/marked; cat /etc/vmm-image"]).succeeded();
    assert!(first.stdout().starts_with("3.23."), "{}", first.stdout());
    let second = run(&[&disk, "--", "cat", "/etc/marked"]);
    assert_ne!(second.status(), 0, "another VM has written nothing here");
    assert!(fs::read(&disk).expect("the disk") == before);
    // One with a name goes on with what it wrote.
    run(&["-d", "--name", "box", &disk]).succeeded();
    home.vmm(["exec", "box", "--", "touch", "/kept"]).run().succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    home.vmm(["exec", "box", "--", "test", "-e", "/kept"]).run().succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    // A file that has changed is noticed at the next start.
    let mut changed = before.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&disk, &changed).expect("it can be changed");
    let refused = home.vmm(["start", "box"]).run();
    assert_ne!(refused.status(), 0);
    assert!(refused.stderr().contains("my.qcow2 is not what it was"), "{}", refused.stderr());
    fs::write(&disk, &before).expect("it can be brought back");
    home.vmm(["start", "box"]).run().succeeded();
    // While a VM has it, what boots it stays; then it goes, and the file does not.
    home.vmm(["images", "prune"]).run().succeeded();
    home.vmm(["exec", "box", "--", "true"]).run().succeeded();
    home.vmm(["rm", "-f", "box"]).run().succeeded();
    home.vmm(["images", "prune"]).run().succeeded();
    assert!(!home.vmm(["images"]).run().succeeded().stdout().contains("file-"));
    assert!(fs::read(&disk).expect("the disk") == before);
}

#[test]
fn a_raw_file_is_called_raw_and_what_is_neither_says_what_to_do() {
    let home = TestHome::new();
    let disk = disk(&home, "my.qcow2");
    let raw = home.path().join("my.raw");
    let convert = Command::new("qemu-img").args(["convert", "-O", "raw", &disk]).arg(&raw).output();
    match convert {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => skip!("qemu-img is not installed"),
    }
    let refused = home.vmm(["run", "./my.raw", "--", "true"]).run();
    assert!(refused.stderr().contains("say --format raw"), "{}", refused.stderr());
    home.vmm(["run", "--format", "raw", "./my.raw", "--", "true"]).run().succeeded();
    let confused = home.vmm(["run", "--format", "raw", "my.raw", "--", "true"]).run();
    assert!(confused.stderr().contains("write it as ./my.raw"), "{}", confused.stderr());
    let missing = home.vmm(["run", "./no-such.qcow2", "--", "true"]).run();
    assert!(missing.stderr().contains("no-such.qcow2"), "{}", missing.stderr());
}
