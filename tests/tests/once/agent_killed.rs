//! The agent, or a process of its, is killed in the guest.

use std::fs;

use vmm_tests::TestHome;

#[test]
fn an_agent_beside_the_images_init_is_followed_by_another() {
    let home = TestHome::new();
    let vm = home.machine("followed", &["--init", "image"]);
    let background = vm.exec_with(&["-d"], &["sleep", "1000"]).run().succeeded().stdout();
    // A command's parent is the agent, whose connections end with it.
    let killed = vm.shell("kill -9 $PPID; sleep 1000");
    killed.refused_saying(&["agent"]);
    assert_eq!(vm.shell("echo here").succeeded().stdout(), "here\n");
    // What ran goes on, as nobody's; and no name is used again.
    vm.shell("pgrep -f 'sleep 1000'").succeeded();
    let another = vm.exec_with(&["-d"], &["true"]).run().succeeded().stdout();
    assert_ne!(background, another);
    home.vmm(["wait", "followed", "--process", background.trim()])
        .run()
        .refused_saying(&["there is no process"]);
    assert!(
        home.vmm(["logs", "followed"]).run().succeeded().stdout().contains("another one takes its place")
    );
    vm.stop().succeeded();
    assert_eq!(home.state_of("followed").as_deref(), Some("stopped"));
}

#[test]
fn an_agent_that_is_process_1_is_not_to_be_killed() {
    let home = TestHome::new();
    let vm = home.machine("first", &[]);
    vm.shell("kill -9 1; kill -SEGV 1; kill -9 $PPID; echo alive").succeeded();
    assert_eq!(vm.shell("echo here").succeeded().stdout(), "here\n");
}

#[test]
fn a_copy_whose_process_in_the_guest_is_killed_leaves_the_target_as_it_was() {
    let home = TestHome::new();
    let vm = home.machine("copied", &[]);
    vm.shell("cd /srv; head -c 1000000 /dev/zero | tr '\\0' x > part; for i in $(seq 100); do cat part; done > large")
        .succeeded();
    fs::write(home.path().join("target"), "as it was").unwrap();
    // It is killed as soon as it runs.
    let killer = "until pid=$(pgrep -f 'vmm-agent [w]ork'); do :; done; kill -9 $pid";
    vm.exec_with(&["-d"], &["sh", "-c", killer]).run().succeeded();
    home.vmm(["cp", "copied:/srv/large", "target"]).run().refused_saying(&["agent"]);
    assert_eq!(fs::read_to_string(home.path().join("target")).unwrap(), "as it was");
    assert!(
        !home
            .path()
            .read_dir()
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".partial") })
    );
    home.vmm(["cp", "copied:/srv/large", "target"]).run().succeeded();
    assert_eq!(fs::metadata(home.path().join("target")).unwrap().len(), 100_000_000);
}
