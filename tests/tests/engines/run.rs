//! `vmm run`: a command in a machine of its own, as if it ran here.

use vmm_tests::{Finished, TestHome, in_laboratory, skip};

fn run(home: &TestHome, options: &[&str], command: &[&str]) -> Finished {
    let mut arguments = vec!["run"];
    arguments.extend(in_laboratory().then_some("--huge-pages"));
    arguments.extend(options);
    arguments.extend(["alpine", "--"]);
    arguments.extend(command);
    home.vmm(arguments).run()
}

#[test]
fn streams_stay_apart_and_the_status_is_the_commands() {
    let home = TestHome::new();
    let run = run(&home, &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]).ended_with(7);
    assert_eq!((run.stdout().as_str(), run.stderr().as_str()), ("out\n", "err\n"));
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn what_is_piped_in_reaches_the_command() {
    let home = TestHome::new();
    let run = home.vmm(["run", "-i", "alpine", "--", "tr", "a-z", "A-Z"]).stdin("shout\n").run().succeeded();
    assert_eq!(run.stdout(), "SHOUT\n");
    // Without -i nothing is read, and the command sees the end of its input.
    let run = home.vmm(["run", "alpine", "--", "cat"]).stdin("unread\n").run().succeeded();
    assert_eq!(run.stdout(), "");
}

#[test]
fn a_command_has_the_environment_folder_and_user_that_were_asked_for() {
    let home = TestHome::new();
    let options =
        ["--env", "GREETING=hello you", "-e", "EMPTY=", "--workdir", "/usr/lib", "--user", "nobody"];
    let script = "echo \"$GREETING|$EMPTY|$(pwd)|$(id -un)\"";
    let run = run(&home, &options, &["sh", "-c", script]).succeeded();
    assert_eq!(run.stdout(), "hello you||/usr/lib|nobody\n");
}

#[test]
fn the_guest_has_the_processors_and_memory_that_were_asked_for() {
    let home = TestHome::new();
    let script = "nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    let run = run(&home, &["--cpus", "2", "--memory", "1G"], &["sh", "-c", script]).succeeded();
    let text = run.stdout();
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], 2);
    // The kernel keeps some for itself.
    assert!((900..=1024).contains(&numbers[1]), "{numbers:?}");
}

#[test]
fn machines_of_one_and_four_processors_boot_with_all_of_them() {
    let home = TestHome::new();
    // One of two is in the test above.
    for count in ["1", "4"] {
        let run = run(&home, &["--cpus", count], &["nproc"]).succeeded();
        assert_eq!(run.stdout(), format!("{count}\n"));
    }
}

#[test]
fn only_a_guest_that_may_nest_can_run_machines_and_still_may_after_a_new_start() {
    let home = TestHome::new();
    let script = "test -c /dev/kvm && grep -qwE 'svm|vmx' /proc/cpuinfo";
    let vm = home.machine("nest", &["--nested"]);
    vm.shell(script).succeeded();
    assert_eq!(vm.info()["nested"], true);
    vm.stop().succeeded();
    home.vmm(["start", "nest"]).run().succeeded();
    vm.shell(script).succeeded();
    run(&home, &[], &["sh", "-c", "! test -e /dev/kvm && ! grep -qwE 'svm|vmx' /proc/cpuinfo"]).succeeded();
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
    home.vmm(["run", "-d", "alpine", "--", "no-such-program"]).run().ended_with(127);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_command_whose_time_is_up_ends_with_124() {
    let home = TestHome::new();
    run(&home, &["--timeout", "1s"], &["sleep", "1000"]).ended_with(124);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_command_that_is_missing_or_no_program_has_a_shells_status() {
    let home = TestHome::new();
    let vm = home.machine("statuses", &[]);
    vm.exec(&["no-such-program"]).ended_with(127);
    vm.exec(&["/no/such/program"]).ended_with(127);
    vm.exec(&["/etc/os-release"]).ended_with(126);
    vm.exec(&["/etc"]).ended_with(126);
    vm.shell("kill -TERM $$").ended_with(128 + 15);
    vm.shell("kill -KILL $$").ended_with(128 + 9);
    vm.shell("exit 255").ended_with(255);
    run(&home, &[], &["no-such-program"]).ended_with(127);
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let home = TestHome::new();
    let arguments = ["", "two words", "it's", "\"quoted\"", "$HOME", "-x", "--", "ünï", "a\nb", "*"];
    let mut command = vec!["sh", "-c", "for a in \"$@\"; do printf '<%s>' \"$a\"; done", "sh"];
    command.extend(arguments);
    let run = run(&home, &[], &command).succeeded();
    let expected: String = arguments.iter().map(|argument| format!("<{argument}>")).collect();
    assert_eq!(run.stdout(), expected);
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

#[test]
fn our_agent_is_pid_1_and_no_service_of_the_image_runs() {
    let home = TestHome::new();
    let text = run(&home, &[], &["ps", "-o", "pid,args"]).succeeded().stdout();
    assert!(!text.contains("quicksand") && !text.contains("openrc"), "{text}");
}

#[test]
fn the_kernels_command_line_can_be_added_to() {
    let home = TestHome::new();
    let run = run(&home, &["--cmdline", "vmm.test=yes"], &["cat", "/proc/cmdline"]).succeeded();
    assert!(run.stdout().split_whitespace().any(|parameter| parameter == "vmm.test=yes"), "{}", run.stdout());
}

#[test]
fn another_kernel_can_be_booted() {
    let home = TestHome::new();
    let kernel = find(home.path(), "vmlinux").expect("the image has a kernel");
    let copy = home.path().join("my-kernel");
    std::fs::copy(kernel, &copy).unwrap();
    let kernel = copy.to_str().unwrap();
    run(&home, &["--kernel", kernel], &["true"]).succeeded();
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

#[test]
fn a_machine_has_a_name_a_clock_and_its_own_processes() {
    let home = TestHome::new();
    let vm = home.machine("whoami", &[]);
    assert_eq!(vm.exec(&["hostname"]).succeeded().stdout(), "whoami\n");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let guest: u64 = vm.exec(&["date", "+%s"]).succeeded().stdout().trim().parse().unwrap();
    assert!(guest.abs_diff(now) < 30, "guest {guest}, host {now}");
    let mounts = vm.exec(&["cat", "/proc/mounts"]).succeeded().stdout();
    for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/tmp", "/sys/fs/cgroup"] {
        assert!(mounts.lines().any(|line| line.split(' ').nth(1) == Some(place)), "{place} in:\n{mounts}");
    }
}

#[test]
fn orphans_are_reaped_and_files_written_under_a_users_name_are_the_users() {
    let home = TestHome::new();
    let vm = home.machine("init", &[]);
    // A grandchild outlives its parent, ends, and is gone.
    vm.shell("(sleep 0.1 & echo $! > /tmp/orphan); sleep 0.5; ! [ -e /proc/$(cat /tmp/orphan) ]").succeeded();
    vm.exec_with(&["-u", "1000:1000"], &["sh", "-c", "touch /tmp/mine; stat -c %u:%g /tmp/mine"])
        .run()
        .succeeded();
}
