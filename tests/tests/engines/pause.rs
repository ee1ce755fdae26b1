//! A VM that stands still for a while.

use std::thread::sleep;
use std::time::Duration;

use vmm_tests::TestHome;

/// How long it stands still: longer than a clock may be wrong afterwards.
const STANDSTILL: Duration = Duration::from_secs(5);

#[test]
fn a_machine_stands_still_keeps_everything_and_goes_on() {
    let home = TestHome::new();
    let vm = home.machine("still", &[]);
    // Lines are only added: a file written anew would be empty for a moment.
    let counting = "while :; do echo >> /tmp/count; sleep 0.05; done";
    vm.exec_with(&["-d"], &["sh", "-c", counting]).run().succeeded();
    let mut waiting = vm.exec_with(&[], &["sh", "-c", "echo begun; sleep 1; echo done"]).start();
    waiting.expect("begun");

    home.vmm(["pause", "still"]).run().succeeded();
    assert_eq!(home.json(&["ps", "--json"])[0]["state"], "paused");
    vm.exec(&["true"]).refused_saying(&["still is paused", "vmm resume still"]);
    home.vmm(["snapshot", "create", "still", "now"]).run().refused_saying(&["paused"]);
    #[expect(clippy::disallowed_methods, reason = "time has to pass for a machine that stands still")]
    sleep(STANDSTILL);
    home.vmm(["resume", "still"]).run().succeeded();
    assert_eq!(home.json(&["ps", "--json"])[0]["state"], "running");

    // A connection that was there goes on, and so does what runs by itself.
    waiting.expect("done");
    assert_eq!(waiting.end().0, 0);
    let before = vm.shell("wc -l < /tmp/count").succeeded();
    let before: u64 = before.stdout().trim().parse().unwrap();
    let goes_on = format!("until [ $(wc -l < /tmp/count) -gt {before} ]; do sleep 0.05; done");
    vm.shell(&goes_on).succeeded();
    let told: u64 = vm.shell("date +%s").succeeded().stdout().trim().parse().unwrap();
    assert!(now().abs_diff(told) < STANDSTILL.as_secs() - 1, "{told} is not the time");

    // One that stands still is shut down in order all the same, and killed at once.
    home.vmm(["pause", "still"]).run().succeeded();
    home.vmm(["stop", "still"]).run().succeeded();
    assert_eq!(home.json(&["ps", "--json"])[0]["end"]["reason"], "stopped");
    home.vmm(["pause", "still"]).run().refused_saying(&["still is not running"]);
    home.vmm(["start", "still"]).run().succeeded();
    home.vmm(["pause", "still"]).run().succeeded();
    home.vmm(["kill", "still"]).run().succeeded();
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
