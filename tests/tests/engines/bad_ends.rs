//! Machines whose disk is full, that are killed, that panic, that do not boot: what they leave, and what they say.

use std::fs;

use vmm_tests::TestHome;

#[test]
fn after_a_kill_of_everything_the_disk_is_sound() {
    let home = TestHome::new();
    let vm = home.machine("sound", &[]);
    let mut busy = vm
        .exec_with(&[], &["sh", "-c", "echo go; while :; do dd if=/dev/urandom of=/srv/x bs=64k count=64 conv=fsync 2>/dev/null; echo more; done"])
        .start();
    busy.expect("more");
    for process in all_processes_of(&vm) {
        process.kill();
        process.ends_within(vmm_tests::PATIENCE);
    }
    drop(busy);
    home.check_disks();
    home.vmm(["start", "sound"]).run().succeeded();
    vm.shell("ls -l /srv/x").succeeded();
}

fn all_processes_of(vm: &vmm_tests::TestVm<'_>) -> Vec<vmm_tests::Process> {
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

#[test]
fn a_disk_that_fills_up_is_an_error_in_the_guest_and_the_machine_lives() {
    let Some(home) = TestHome::on_a_disk_of(640 << 20) else {
        vmm_tests::skip!("only root can mount a small disk");
    };
    home.with_images();
    let vm = home.machine("full", &[]);
    let free = rustix::fs::statvfs(home.path()).unwrap();
    let ballast = home.path().join("ballast");
    let free = free.f_bavail * free.f_frsize;
    fs::write(&ballast, vec![1; usize::try_from(free.saturating_sub(24 << 20)).unwrap()]).unwrap();

    let write = vm.shell("dd if=/dev/urandom of=/srv/big bs=1M count=100 conv=fsync 2>&1");
    assert_ne!(write.status(), 0, "{}", write.stdout());
    assert!(!vm.monitor().has_ended());
    vm.exec(&["true"]).succeeded();
    home.vmm(["kill", "full"]).run().succeeded();

    fs::remove_file(&ballast).unwrap();
    home.check_disks();
    home.vmm(["start", "full"]).run().succeeded();
    vm.exec(&["true"]).succeeded();
}
