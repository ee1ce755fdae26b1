//! `vmm run`: a command in a machine of its own, as if it ran here.

use vmm_tests::{Finished, TestHome, in_laboratory, kernels, skip};

fn run(home: &TestHome, options: &[&str], command: &[&str]) -> Finished {
    home.run(options, command).run()
}

#[test]
fn a_command_runs_as_if_it_ran_here() {
    let home = TestHome::new();
    let arguments = ["", "two words", "it's", "\"quoted\"", "$HOME", "-x", "--", "ünï", "a\nb", "*"];
    // Without -i nothing is read, and the command sees the end of its input.
    let script =
        "cat; echo \"$GREETING|$EMPTY|$(pwd)|$(id -un)|$(nproc)\"; for a in \"$@\"; do printf '<%s>' \"$a\"; done
                  echo err >&2; exit 7";
    let options = [
        "--cpus",
        "1",
        "--env",
        "GREETING=hello you",
        "-e",
        "EMPTY=",
        "--workdir",
        "/usr/lib",
        "--user",
        "nobody",
    ];
    let command: Vec<&str> = ["sh", "-c", script, "sh"].into_iter().chain(arguments).collect();
    let run = home.run(&options, &command).stdin("unread\n").run().ended_with(7);
    let shown: String = arguments.iter().map(|argument| format!("<{argument}>")).collect();
    assert_eq!(run.stdout(), format!("hello you||/usr/lib|nobody|1\n{shown}"));
    assert_eq!(run.stderr(), "err\n");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_guest_has_what_was_asked_for_and_nothing_else() {
    let home = TestHome::new();
    let kernel = home.path().join("my-kernel");
    let mut options = vec!["--cpus", "2", "--memory", "1G", "--cmdline", "vmm.test=yes"];
    // Where a kernel is chosen for all machines, that is the one to be tested.
    if kernels().is_none() {
        std::fs::copy(find(home.path(), "vmlinux").expect("the image has a kernel"), &kernel).unwrap();
        options.extend(["--kernel", kernel.to_str().unwrap()]);
    }
    let script = "test -e /dev/kvm && exit 1; grep -qwE 'svm|vmx' /proc/cpuinfo && exit 2
                  nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; cat /proc/cmdline; ps -o pid,args";
    let run = run(&home, &options, &["sh", "-c", script]).succeeded();
    let text = run.stdout();
    let [processors, memory, parameters, processes] = text.splitn(4, '\n').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!(processors, "2");
    // The kernel keeps some for itself.
    assert!((900..=1024).contains(&memory.parse().unwrap()), "{memory}");
    assert!(parameters.split_whitespace().any(|parameter| parameter == "vmm.test=yes"), "{parameters}");
    assert!(!processes.contains("quicksand") && !processes.contains("openrc"), "{processes}");
}

#[test]
fn a_guest_that_may_nest_can_run_machines_and_still_may_after_a_new_start() {
    let home = TestHome::new();
    // That others cannot is in `a_guest_has_what_was_asked_for_and_nothing_else`.
    let script = "test -c /dev/kvm && grep -qwE 'svm|vmx' /proc/cpuinfo";
    let vm = home.machine("nest", &["--nested"]);
    vm.shell(script).succeeded();
    assert_eq!(vm.info()["nested"], true);
    vm.stop().succeeded();
    home.vmm(["start", "nest"]).run().succeeded();
    vm.shell(script).succeeded();
}

#[test]
fn kvm_a_host_whose_kvm_lets_nobody_nest_says_so_and_what_to_do() {
    if !in_laboratory() {
        skip!("only in the laboratory may a test load KVM anew");
    }
    let home = TestHome::new();
    // The laboratory holds a VM.
    let reload = format!(
        "kill $(cat {}); for i in $(seq 100); do modprobe -r kvm_amd 2> /dev/null && break; sleep 0.1; done
         modprobe kvm_amd nested=0 && grep -x 0 /sys/module/kvm_amd/parameters/nested",
        laboratory::MACHINE
    );
    assert!(std::process::Command::new("sh").args(["-c", &reload]).status().unwrap().success());
    let refused = run(&home, &["--nested", "--engine", "kvm"], &["true"]);
    refused.refused_saying(&["lets no guest run virtual machines", "nested=1", "--engine software"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
    let doctor = home.vmm(["doctor"]).run().succeeded().stdout();
    assert!(doctor.contains("a guest cannot run virtual machines itself"), "{doctor}");
    run(&home, &["--engine", "kvm"], &["true"]).succeeded();
}

#[test]
fn a_machine_whose_first_command_does_not_start_is_not_left_running() {
    let home = TestHome::new();
    for options in [&[][..], &["-d"]] {
        run(&home, options, &["no-such-program"]).ended_with(127);
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{options:?}");
    }
}

#[test]
fn what_is_piped_in_reaches_the_command_which_ends_with_124_when_its_time_is_up() {
    let home = TestHome::new();
    let command = ["sh", "-c", "tr a-z A-Z; exec sleep 1000"];
    let run = home.run(&["-i", "--timeout", "3s"], &command).stdin("shout\n").run().ended_with(124);
    assert_eq!(run.stdout(), "SHOUT\n");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_machine_with_a_name_keeps_its_disk_and_one_without_leaves_nothing() {
    let home = TestHome::new();
    run(&home, &["--name", "kept"], &["sh", "-c", "echo mine > /var/note"]).succeeded();
    assert_eq!(home.state_of("kept").as_deref(), Some("stopped"));
    home.vmm(["start", "kept"]).run().succeeded();
    let note = home.vmm(["exec", "kept", "--", "cat", "/var/note"]).run().succeeded();
    assert_eq!(note.stdout(), "mine\n");
    home.vmm(["stop", "kept"]).run().succeeded();
    home.vmm(["rm", "kept"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn the_images_own_init_can_be_pid_1() {
    let home = TestHome::new();
    let script = "cat /proc/1/comm; ls /run/openrc/started; ps -o args";
    let run = run(&home, &["--init", "image"], &["sh", "-c", script]).succeeded();
    let text = run.stdout();
    assert!(text.starts_with("init\n"), "{text}");
    // The image's default runlevel holds a service of another product.
    assert!(!text.contains("quicksand"), "{text}");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).ok()? {
        let path = entry.ok()?.path();
        if path.file_name()? == name && path.is_file() {
            return Some(path);
        }
        if let Some(found) = path.is_dir().then(|| find(&path, name)).flatten() {
            return Some(found);
        }
    }
    None
}
