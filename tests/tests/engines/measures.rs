//! What is promised in numbers that do not depend on how fast the machine is.

use laboratory::Memory;
use vmm_tests::{TestHome, TestVm, engine};

/// The guest's memory, in KiB, and as the command line has it.
const GUEST: u64 = 128 * 1024;
const SIZE: [&str; 2] = ["--memory", "128M"];

/// The monitor's own memory, in KiB, beyond the guest's: of a machine that is idle after its boot on the native engine,
/// and of one on the software engine that has worked.
const IDLE: u64 = 5 * 1024;
const WORKED: u64 = 24 * 1024;

#[test]
fn alone_the_monitor_needs_little_memory_of_its_own() {
    let home = TestHome::new();
    let vm = home.machine_with_usual_memory("small", &SIZE);
    // Pages of the program's file are private as long as nobody else has them.
    let _other = home.machine_with_usual_memory("other", &SIZE);
    let idle = own_memory(&vm, "is idle");
    if engine() == "kvm" {
        assert!(idle.private <= IDLE, "{idle:?}");
    }
    // Work for each device, so that what they allocate is there.
    vm.shell("dd if=/dev/zero of=/var/x bs=1M count=64 conv=fsync 2>/dev/null; cat /var/x > /dev/null")
        .succeeded();
    vm.exec(&["head", "-c", "10000000", "/dev/urandom"]).succeeded();
    let worked = own_memory(&vm, "has worked");
    assert!(worked.private <= WORKED, "{worked:?}");
}

fn own_memory(vm: &TestVm<'_>, when: &str) -> Memory {
    let memory = Memory::without_guest(vm.monitor().pid, GUEST).unwrap();
    println!(
        "when it {when}, the monitor has {} KiB of its own, and shares {}",
        memory.private, memory.shared
    );
    memory
}
