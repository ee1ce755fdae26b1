//! What the command line does for whoever types: it completes words, explains itself, and speaks to programs.

use std::process::Command;

use vmm_tests::{Invocation, TestHome};

/// What Bash makes of a line when its user presses the key: the words that it would put in place of the last one.
fn completed(home: &TestHome, line: &str) -> Vec<String> {
    let script = r#"
        source <(vmm completion bash)
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \t\n"'"'"'><=;|&(:'
        _vmm
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", line]);
    let found = vmm_tests::binary().parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(found).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).unwrap();
    let finished = Invocation::of(home.in_home(command)).env("PATH", path).run().succeeded();
    finished.stdout().lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_key_completes_commands_machines_images_snapshots_processes_and_paths_in_guests() {
    let home = TestHome::new();
    let vm = home.machine("workbench", &[]);
    vm.shell("mkdir -p '/srv/with blank' /srv/plain && touch /srv/file /srv/.hidden").succeeded();
    home.vmm(["snapshot", "create", "workbench", "before-upgrade"]).run().succeeded();
    let id = vm.exec_with(&["-d"], &["sleep", "1000"]).run().succeeded().stdout();

    assert_eq!(completed(&home, "vmm insp"), ["inspect"]);
    assert_eq!(completed(&home, "vmm stop w"), ["workbench"]);
    assert_eq!(completed(&home, "vmm run alp"), ["alpine"]);
    assert_eq!(completed(&home, "vmm snapshot restore workbench b"), ["before-upgrade"]);
    assert_eq!(completed(&home, "vmm attach workbench "), [id.trim()]);
    assert_eq!(completed(&home, "vmm cp work"), ["workbench:"]);
    // Bash replaces what stands behind the colon.
    assert_eq!(completed(&home, "vmm cp workbench:/et"), ["/etc/"]);
    assert_eq!(
        completed(&home, "vmm cp workbench:/srv/"),
        ["/srv/file", "/srv/plain/", r"/srv/with\ blank/"]
    );
    assert_eq!(completed(&home, r"vmm cp workbench:/srv/with\ b"), [r"/srv/with\ blank/"]);
    assert_eq!(completed(&home, "vmm cp workbench:/srv/."), ["/srv/.hidden"]);

    // Who is not there is not waited for, and what a guest has cannot steer the terminal.
    vm.shell("touch \"/srv/plain/$(printf 'a\\033[31mb')\"").succeeded();
    let shown = completed(&home, "vmm cp workbench:/srv/plain/");
    assert!(shown.iter().all(|word| !word.contains('\x1b')), "{shown:?}");
    vm.stop().succeeded();
    assert_eq!(completed(&home, "vmm cp workbench:/et"), Vec::<String>::new());
    assert_eq!(completed(&home, "vmm attach workbench "), Vec::<String>::new());
}

#[test]
fn a_machine_that_hangs_does_not_hang_the_shell() {
    let home = TestHome::new();
    let vm = home.machine("stuck", &[]);
    let processes = vm.processes();
    processes.iter().for_each(|process| process.signal(rustix::process::Signal::STOP));
    let began = std::time::Instant::now();
    assert_eq!(completed(&home, "vmm cp stuck:/et"), Vec::<String>::new());
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    processes.iter().for_each(|process| process.signal(rustix::process::Signal::CONT));
}

#[test]
fn what_there_is_to_read_is_found() {
    let home = TestHome::empty();
    let topics = home.vmm(["help", "topics"]).run().succeeded().stdout();
    for topic in ["images", "disks", "files", "engines", "projects", "scripting", "environment"] {
        assert!(topics.contains(topic), "{topics}");
        let text = home.vmm(["help", topic]).run().succeeded().stdout();
        assert!(text.lines().count() > 5, "{text}");
    }
    let said = home.vmm(["help", "snapshot", "create"]).run().succeeded().stdout();
    assert_eq!(said, home.vmm(["snapshot", "create", "--help"]).run().succeeded().stdout());
    home.vmm(["help", "enignes"]).run().refused_saying(&["enignes", "did you mean engines?"]);
    home.vmm(["pull", "alpin"]).run().refused_saying(&["alpin", "did you mean alpine?"]);

    let pages = home.path().join("man1");
    home.vmm(["man".as_ref(), "--output".as_ref(), pages.as_os_str()]).run().succeeded();
    for page in ["vmm.1", "vmm-run.1", "vmm-snapshot-create.1"] {
        let page = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
    }
    // Colours and progress are for terminals.
    let help = home.vmm(["--help"]).run().succeeded().stdout();
    assert!(!help.contains('\x1b'), "{help}");
}

#[test]
fn what_is_set_to_nothing_is_not_set() {
    let home = TestHome::empty();
    let pull = home.vmm(["pull", "no-such-image"]).env("VMM_ENGINE", "").env("VMM_LOG", "").run();
    pull.refused_saying(&["no-such-image"]);
    home.vmm(["pull", "alpine"]).env("VMM_ENGINE", "steam").run().ended_with(125);
}

#[test]
fn a_program_is_told_what_was_done_to_disks_and_images() {
    let home = TestHome::new();
    let made = home.json(&["disk", "create", "--json", "data.qcow2", "8M"]);
    assert_eq!((&made["format"], &made["size"]), (&"qcow2".into(), &(8u64 << 20).into()));
    let said = home.vmm(["disk", "resize", "data.qcow2", "16M"]).run().succeeded().stdout();
    assert!(said.contains("8.0 MiB") && said.contains("16.0 MiB"), "{said}");
    assert_eq!(home.json(&["disk", "check", "--json", "data.qcow2"])["damage"], serde_json::json!([]));
    assert_eq!(home.json(&["pull", "--json", "alpine"])[0]["fetched"], false);
    assert_eq!(
        home.json(&["images", "tag", "--json", "alpine", "mine:1.0"])["image"].as_str().unwrap()[..5],
        *"mine:"
    );
    assert_eq!(home.json(&["version", "--json"])["json"], 1);
    home.vmm(["run", "data.qcow2"]).run().refused_saying(&["write ./data.qcow2"]);
}

#[test]
fn a_machine_is_a_service_of_systemds() {
    let home = TestHome::new();
    let vm = home.machine("daemon", &["--stop-timeout", "4s"]);
    vm.stop().succeeded();
    let config = home.path().join("config with 50% \"quotes\"");
    let service = |arguments: &[&str]| {
        let all = ["service"].iter().chain(arguments).chain(&["daemon"]).copied().collect::<Vec<_>>();
        home.vmm(all).env("XDG_CONFIG_HOME", &config).run()
    };
    let unit = service(&[]).succeeded().stdout();
    for line in ["Type=exec", "TimeoutStopSec=34s", "Restart=no", "WantedBy=default.target"] {
        assert!(unit.lines().any(|found| found == line), "{unit}");
    }
    let unit = service(&["--restart", "on-failure", "--system"]).succeeded().stdout();
    assert!(unit.contains("Restart=on-failure") && unit.contains("User="), "{unit}");
    let path = service(&["--install"]).succeeded().stdout();
    let folder = config.join("systemd/user");
    assert_eq!(path.trim(), folder.join("vmm-daemon.service").to_str().unwrap());
    assert!(folder.join("default.target.wants/vmm-daemon.service").exists());
    if let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--user"]).arg(path.trim()).output()
    {
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(!said.contains("vmm-daemon"), "{said}");
    }

    // What systemd does: start it, hear of its end, stop it in order.
    let run = |unit: &str, key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split(' ').skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let unit = std::fs::read_to_string(path.trim()).unwrap();
    let process = home.vmm(run(&unit, "ExecStart=")).start();
    home.wait_for_state("daemon", "running");
    home.vmm(run(&unit, "ExecStop=")).run().succeeded();
    assert_eq!(process.end().0, 0);
    // A crash is a failure of the unit, also of one that was found running.
    home.vmm(["start", "daemon"]).run().succeeded();
    let process = home.vmm(run(&unit, "ExecStart=")).start();
    vm.exec_with(&["-d"], &["sh", "-c", "sleep 1; echo c > /proc/sysrq-trigger"]).run().succeeded();
    assert_eq!(process.end().0, 125);

    // Another name is no other machine.
    home.vmm(["rename", "daemon", "demon"]).run().succeeded();
    home.vmm(["rename", "demon", "daemon"]).run().succeeded();
    service(&["--remove"]).succeeded();
    assert_eq!(std::fs::read_dir(folder.join("default.target.wants")).unwrap().count(), 0);
    service(&["--remove"]).refused_saying(&["no unit", "daemon"]);
}
