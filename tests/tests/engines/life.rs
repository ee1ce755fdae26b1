//! A machine's life: started, listed, stopped, started again, removed; and what becomes of it when something dies.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use vmm_tests::{PATIENCE, TestHome, TestVm};

#[test]
fn a_machine_is_listed_stopped_started_and_removed() {
    let home = TestHome::new();
    assert_eq!(home.ps(), Vec::<serde_json::Value>::new());
    let vm = home.machine("box", &[]);
    assert_eq!(home.state_of("box").as_deref(), Some("running"));
    let table = home.vmm(["ps"]).run().succeeded().stdout();
    assert!(table.contains("box") && table.contains("running"), "{table}");
    assert_eq!(vm.info()["seccomp"], true, "nobody asked for less");
    what_lies_in_a_home_is_its_owners_alone(&home);
    home.vmm(["start", "box"]).run().refused_saying(&["the VM box", "running"]);

    vm.shell("echo kept > /srv/kept").succeeded();
    the_console_is_kept_and_can_be_followed_to_the_end(&home, &vm);
    assert_eq!(home.state_of("box").as_deref(), Some("stopped"));
    // It is stopped already.
    home.vmm(["stop", "box"]).run().succeeded();
    of_two_starts_at_once_one_wins_and_the_other_says_so(&home, "box");
    assert_eq!(vm.exec(&["cat", "/srv/kept"]).succeeded().stdout(), "kept\n");

    // A name begins with its id's first digits, too.
    let id = vm.info()["id"].as_str().unwrap().to_owned();
    home.vmm(["exec", &id[..6], "--", "true"]).run().succeeded();

    home.vmm(["rm", "box"]).run().refused_saying(&["box"]);
    home.vmm(["rm", "--force", "box"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

fn what_lies_in_a_home_is_its_owners_alone(home: &TestHome) {
    let mut open = Vec::new();
    for root in [home.path(), home.runtime()] {
        visit(root, &mut |path, mode| {
            if mode & 0o077 != 0 {
                open.push(format!("{} {mode:o}", path.display()));
            }
        });
    }
    assert_eq!(open, Vec::<String>::new());

    fn visit(folder: &Path, see: &mut impl FnMut(&Path, u32)) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if !metadata.is_symlink() {
                see(&entry.path(), metadata.permissions().mode() & 0o777);
            }
            if metadata.is_dir() {
                visit(&entry.path(), see);
            }
        }
    }
}

fn the_console_is_kept_and_can_be_followed_to_the_end(home: &TestHome, vm: &TestVm<'_>) {
    let mut follow = home.vmm(["logs", "-f", vm.name()]).start();
    vm.shell("echo a word from inside > /dev/console").succeeded();
    follow.expect("a word from inside");
    vm.stop().succeeded();
    assert_eq!(follow.end().0, 0);
    let log = home.vmm(["logs", vm.name()]).run().succeeded().stdout();
    assert!(log.contains("a word from inside"), "{log}");
}

fn of_two_starts_at_once_one_wins_and_the_other_says_so(home: &TestHome, name: &str) {
    let mut ends = std::thread::scope(|scope| {
        let starts = [(); 2].map(|()| scope.spawn(|| home.vmm(["start", name]).run()));
        starts.map(|start| start.join().unwrap())
    });
    ends.sort_by_key(vmm_tests::Finished::status);
    let [winner, loser] = ends;
    winner.succeeded();
    loser.refused_saying(&[&format!("the VM {name}")]);
}

#[test]
fn a_monitor_that_is_killed_takes_qemu_with_it_and_the_machine_can_start_again() {
    let home = TestHome::new();
    let vm = home.machine("orphan", &[]);
    vm.shell("echo synced > /srv/synced; sync").succeeded();
    let (monitor, others) = (vm.monitor(), vm.processes());
    monitor.kill();
    assert!(monitor.ends_within(PATIENCE));
    for process in &others {
        assert!(
            process.ends_within(Duration::from_secs(1)),
            "still runs after a second: {}",
            process.command
        );
    }
    assert_eq!(home.state_of("orphan").as_deref(), Some("crashed"));
    home.vmm(["start", "orphan"]).run().succeeded();
    assert_eq!(vm.exec(&["cat", "/srv/synced"]).succeeded().stdout(), "synced\n");

    // A person may kill it, too: then it is no crash.
    let monitor = vm.monitor();
    home.vmm(["kill", "orphan"]).run().succeeded();
    assert!(monitor.has_ended());
    assert_eq!(home.state_of("orphan").as_deref(), Some("stopped"));
}

#[test]
fn a_run_that_is_killed_takes_its_machine_with_it() {
    let home = TestHome::new();
    let mut run = home.vmm(["run", "alpine", "--", "sh", "-c", "echo ready; sleep 1000"]).start();
    run.expect("ready");
    run.process().kill();
    run.end();
    home.wait_until_quiet();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
