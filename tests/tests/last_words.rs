//! Machines that end badly: what they leave, and what they say.

use vmm_tests::TestHome;

#[test]
fn after_a_kill_of_everything_the_disk_is_sound() {
    let home = TestHome::new();
    let vm = home.machine("sound", &[]);
    let mut busy = vm
        .exec_with(&[], &["sh", "-c", "echo go; while :; do dd if=/dev/urandom of=/srv/x bs=64k count=64 conv=fsync 2>/dev/null; echo more; done"])
        .start();
    busy.expect("more");
    for process in vm_tests_processes(&vm) {
        process.kill();
        process.ends_within(vmm_tests::PATIENCE);
    }
    drop(busy);
    home.check_disks();
    home.vmm(["start", "sound"]).run().succeeded();
    vm.shell("ls -l /srv/x").succeeded();
}

fn vm_tests_processes(vm: &vmm_tests::TestVm<'_>) -> Vec<vmm_tests::Process> {
    let mut all = vm.processes();
    all.push(vm.monitor());
    all
}

#[test]
fn a_guest_that_panics_shows_its_last_words() {
    let home = TestHome::new();
    let run = home
        .vmm(["run", "--cmdline", "panic=-1", "alpine", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"])
        .run();
    let run = run.ended_with(125);
    assert!(run.stderr().to_lowercase().contains("panic"), "{}", run.stderr());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_guest_that_cannot_boot_shows_its_last_words() {
    let home = TestHome::new();
    // The kernel never comes to our agent.
    let run = home.vmm(["run", "--cmdline", "rdinit=/nothing init=/nothing", "alpine", "--", "true"]).run();
    let run = run.ended_with(125);
    assert!(run.stderr().lines().count() > 1, "{}", run.stderr());
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
