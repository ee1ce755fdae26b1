//! What is promised in numbers that do not depend on how fast the machine is.

use vmm_tests::TestHome;

/// The monitor's own memory, in KiB, beyond the guest's.
const PROMISED: u64 = 24 * 1024;

#[test]
fn alone_the_monitor_needs_little_memory_of_its_own() {
    let home = TestHome::new();
    let vm = home.machine("small", &[]);
    // Work for each device, so that what they allocate is there.
    vm.shell("dd if=/dev/zero of=/var/x bs=1M count=64 conv=fsync 2>/dev/null; cat /var/x > /dev/null")
        .succeeded();
    vm.exec(&["head", "-c", "10000000", "/dev/urandom"]).succeeded();
    let private = private_without_guest(vm.monitor().pid);
    println!("the monitor has {private} KiB of its own");
    assert!(private <= PROMISED, "{private} KiB");
}

/// Private pages of all mappings but the guest's memory, which is a memory file.
fn private_without_guest(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut of_guest = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            of_guest = line.contains("memfd:");
        } else if !of_guest && matches!(first, "Private_Clean:" | "Private_Dirty:") {
            sum += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}
