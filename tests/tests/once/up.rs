//! A folder and its machines: `vmm up` and what belongs to it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vmm_tests::{Finished, Terminal, TestHome};

/// A folder in which a person works; its machines are gone when it is dropped.
struct Folder<'a> {
    home: &'a TestHome,
    path: PathBuf,
}

impl<'a> Folder<'a> {
    fn new(home: &'a TestHome, name: &str) -> Self {
        let path = home.path().join("work").join(name);
        fs::create_dir_all(&path).unwrap();
        Self { home, path: fs::canonicalize(path).unwrap() }
    }

    fn with_file(home: &'a TestHome, name: &str, text: &str) -> Self {
        let folder = Self::new(home, name);
        folder.write("vmm.toml", text);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    fn vmm(&self, words: &[&str]) -> Finished {
        self.vmm_in(".", words)
    }

    fn vmm_in(&self, below: &str, words: &[&str]) -> Finished {
        self.home.vmm(words).in_folder(self.path.join(below)).run()
    }

    fn up(&self) -> Finished {
        self.vmm(&["up"]).succeeded()
    }

    /// Runs a line in the guest's shell.
    fn shell(&self, line: &str) -> String {
        self.shell_in(&[], line)
    }

    fn shell_in(&self, vm: &[&str], line: &str) -> String {
        let words = ["shell"].iter().chain(vm).copied();
        let shell = self.home.vmm(words).in_folder(&self.path).stdin(format!("{line}\n"));
        shell.run().succeeded().stdout()
    }

    fn status(&self) -> Value {
        let text = self.vmm(&["status", "--json"]).succeeded().stdout();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn machine(&self, name: &str) -> Value {
        let status = self.status();
        let machines = status["machines"].as_array().unwrap();
        let machine = machines.iter().find(|machine| machine["name"] == name);
        machine.unwrap_or_else(|| panic!("there is no {name} in {status}")).clone()
    }

    /// What tells one run of a machine from another.
    fn run(&self, name: &str) -> u64 {
        self.machine(name)["vm"]["monitor_pid"].as_u64().unwrap_or_else(|| panic!("{name} does not run"))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.path.is_dir() {
            let _ = self.vmm(&["destroy", "--yes"]);
        }
    }
}

#[test]
fn an_empty_folder_has_an_alpine_whose_disk_is_kept() {
    let home = TestHome::new();
    let folder = Folder::new(&home, "first");
    assert_eq!(folder.up().stdout(), "default is up\n");
    let run = folder.run("default");
    assert!(folder.shell("cat /etc/os-release").contains("ID=alpine"));
    folder.shell("echo kept > /srv/file; sync");

    let again = folder.up();
    assert_eq!((again.stdout().as_str(), again.stderr().as_str()), ("default runs already\n", ""));
    assert_eq!(folder.run("default"), run);

    assert_eq!(folder.vmm(&["down"]).succeeded().stdout(), "default is down\n");
    assert_eq!(folder.machine("default")["vm"]["state"], "stopped");
    folder.vmm(&["shell"]).refused_saying(&["not running"]);
    assert_eq!(folder.vmm(&["down"]).succeeded().stdout(), "");

    folder.up();
    assert_eq!(folder.shell("cat /srv/file"), "kept\n");
    // Nothing was put into the folder.
    assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 0);

    let other = Folder::new(&home, "second");
    other.up();
    assert_eq!(other.shell("cat /srv/file || echo none"), "none\n");
    home.check_disks();

    folder.vmm(&["destroy"]).refused_saying(&["default", "--yes"]);
    assert_eq!(folder.vmm(&["destroy", "--yes"]).succeeded().stdout(), "default is gone\n");
    assert_eq!(folder.machine("default")["vm"], Value::Null);
    assert_eq!(other.machine("default")["vm"]["state"], "running");
    other.vmm(&["destroy", "--yes"]).succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_project_is_found_from_its_folders_and_one_without_a_file_is_its_folder_alone() {
    let home = TestHome::new();
    let folder = Folder::with_file(&home, "project", "hostname = \"found\"");
    fs::create_dir_all(folder.path.join("src/deep")).unwrap();
    folder.vmm(&["shell"]).refused_saying(&["is not up", "vmm up"]);
    folder.vmm_in("src/deep", &["up"]).succeeded();
    assert_eq!(folder.shell("hostname"), "found\n");
    a_shell_is_one_on_a_terminal(&folder);
    assert_eq!(folder.vmm_in("src", &["up"]).succeeded().stdout(), "default runs already\n");
    // By name from anywhere else.
    let path = folder.path.to_str().unwrap();
    let status = home.json(&["status", "-C", path, "--json"]);
    assert_eq!(status["machines"][0]["vm"]["state"], "running");
    folder.vmm_in("src", &["down"]).succeeded();

    let plain = Folder::new(&home, "plain");
    fs::create_dir(plain.path.join("below")).unwrap();
    let plan = plain.vmm_in("below", &["up", "--dry-run"]).succeeded().stdout();
    assert!(plan.starts_with("default: create below-"), "{plan}");
    assert_eq!(home.ps().len(), 1, "a dry run does nothing");
}

#[test]
fn a_file_that_changes_restarts_the_machine_and_says_why_first() {
    let home = TestHome::new();
    let folder = Folder::with_file(&home, "changing", "memory = \"256M\"\n[env]\nCOLOUR = \"red $HOME\"\n");
    folder.up();
    folder.shell("echo kept > /srv/file; sync");
    assert_eq!(folder.shell("echo $COLOUR"), "red $HOME\n");
    assert!(folder.shell("hostname").starts_with("changing"));
    let run = folder.run("default");

    let text = "memory = \"384M\"\nhostname = \"other\"\nkernel_parameters = \"told=so\"\n[env]\nCOLOUR = \"blue\"\n";
    folder.write("vmm.toml", text);
    let dry = folder.vmm(&["up", "--dry-run"]).succeeded().stdout();
    assert!(dry.contains("default: restart, for env ") && dry.contains("memory 256M → 384M"), "{dry}");
    let json = folder.vmm(&["up", "--dry-run", "--json"]).succeeded().stdout();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["machines"][0]["action"], "restart");
    assert_eq!(folder.run("default"), run, "a dry run does nothing");
    let status = folder.vmm(&["status"]).succeeded();
    assert!(
        status.stderr().contains("differs: env, hostname, kernel_parameters, memory"),
        "{}",
        status.stderr()
    );

    let up = folder.up();
    assert!(up.stderr().contains("→ default: restart, for"), "{}", up.stderr());
    assert_ne!(folder.run("default"), run);
    let seen = folder.shell("cat /srv/file; echo $COLOUR; hostname; grep -o told=so /proc/cmdline");
    assert_eq!(seen, "kept\nblue\nother\ntold=so\n");
    assert_eq!(folder.machine("default")["vm"]["memory"], 384 << 20);
    assert_eq!(folder.up().stdout(), "default runs already\n");

    // What is changed while it is down counts from the next start.
    folder.vmm(&["down"]).succeeded();
    folder.write("vmm.toml", "");
    let up = folder.up();
    assert!(up.stderr().contains("→ default: start, for"), "{}", up.stderr());
    assert_eq!(folder.shell("cat /srv/file; echo \"<$COLOUR>\""), "kept\n<>\n");
}

#[test]
fn a_kernel_of_the_projects_own_comes_and_goes_and_the_disk_stays() {
    let home = TestHome::new();
    let folder = Folder::with_file(&home, "kernel", "kernel = \"vmlinux\"\nboot_profile = \"native\"\n");
    let images = home.path().join("images/alpine");
    let image = fs::read_dir(&images).unwrap().flatten().map(|entry| entry.path().join("vmlinux"));
    let vmlinux = image.into_iter().find(|path| path.is_file()).expect("Alpine has a kernel");
    fs::copy(&vmlinux, folder.path.join("vmlinux")).unwrap();
    folder.up();
    folder.shell("echo kept > /srv/file; sync");
    let id = folder.machine("default")["vm"]["id"].as_str().unwrap().to_owned();
    let own = home.path().join("vms").join(id).join("kernel");
    assert!(own.is_file());
    assert_eq!(folder.up().stdout(), "default runs already\n");

    // Another content is another kernel, by whatever name.
    folder.write("vmlinux", "none");
    let up = folder.vmm(&["up"]).ended_with(125).stderr();
    assert!(up.contains("restart, for kernel vmlinux (") && up.contains("cannot boot the kernel"), "{up}");
    folder.write("vmm.toml", "");
    folder.up();
    assert!(!own.exists());
    assert_eq!(folder.shell("cat /srv/file"), "kept\n");
}

#[test]
fn a_disk_goes_only_when_that_is_agreed_and_the_new_image_can_be_had() {
    let home = TestHome::new();
    let folder = Folder::new(&home, "disk");
    folder.up();
    folder.shell("echo kept > /srv/file; sync");
    folder.write("vmm.toml", "managed_image = \"alpine:3.23\"");
    assert_eq!(folder.up().stdout(), "default runs already\n", "it is the same image");

    folder.write("vmm.toml", "managed_image = \"no-such-image\"");
    for arguments in [&["up"][..], &["up", "--yes"]] {
        let refusal = folder.vmm(arguments).ended_with(125).stderr();
        assert!(refusal.contains("no-such-image"), "{refusal}");
    }
    folder.write("vmm.toml", "managed_image = \"alpine-cloud\"");
    let refusal = folder.vmm(&["up"]).ended_with(125).stderr();
    assert!(refusal.contains("the disk of default would be lost") && refusal.contains("--yes"), "{refusal}");
    assert_eq!(folder.shell("cat /srv/file"), "kept\n");

    // As if its disk had been made over another image.
    folder.vmm(&["down"]).succeeded();
    let id = folder.machine("default")["vm"]["id"].as_str().unwrap().to_owned();
    let spec = home.path().join("vms").join(&id).join("spec.json");
    replace(&spec, "\"image\": \"alpine\"", "\"image\": \"other\"");
    let record = fs::read_dir(home.path().join("projects")).unwrap().flatten();
    let record = record.map(|entry| entry.path().join("project.json")).find(|path| path.is_file()).unwrap();
    replace(&record, "\"managed_image\": \"alpine\"", "\"managed_image\": \"other\"");
    folder.write("vmm.toml", "");

    let mut terminal = Terminal::run(home.vmm(["up"]).in_folder(&folder.path), 24, 80);
    terminal.sees("Remove the disk of default? [y/N]");
    terminal.types_line("n");
    assert_eq!(terminal.ends(), 125);
    assert_eq!(folder.machine("default")["vm"]["id"], id.as_str());

    let mut terminal = Terminal::run(home.vmm(["up"]).in_folder(&folder.path), 24, 80);
    terminal.sees("Remove the disk of default? [y/N]");
    terminal.types_line("y");
    terminal.sees("default is up");
    assert_eq!(terminal.ends(), 0);
    assert_ne!(folder.machine("default")["vm"]["id"], id.as_str());
    assert_eq!(folder.shell("cat /srv/file || echo none"), "none\n");
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_project_of_several_machines() {
    let home = TestHome::new();
    let both = "[vm.web]\nmemory = \"160M\"\n[vm.db]\nmemory = \"192M\"\n";
    let folder = Folder::with_file(&home, "several", both);
    assert_eq!(folder.up().stdout(), "web is up\ndb is up\n");
    assert_eq!(folder.shell_in(&["web"], "hostname"), "web\n");
    assert_eq!(folder.shell_in(&["db"], "hostname"), "db\n");
    folder.vmm(&["shell"]).refused_saying(&["several VMs", "web, db"]);
    folder.vmm(&["shell", "webb"]).refused_saying(&["no VM \"webb\"", "did you mean web?"]);
    folder.vmm(&["up", "cache"]).refused_saying(&["no VM \"cache\""]);
    folder.vmm(&["status", "cache"]).refused_saying(&["no VM \"cache\""]);

    let web = folder.run("web");
    assert_eq!(folder.vmm(&["down", "db"]).succeeded().stdout(), "db is down\n");
    let status = folder.vmm(&["status"]).succeeded().stdout();
    let lines: Vec<&str> = status.lines().collect();
    assert!(lines[1].starts_with("web") && lines[1].contains("running"), "{status}");
    assert!(lines[2].starts_with("db") && lines[2].contains("stopped"), "{status}");
    assert_eq!(folder.vmm(&["up", "db"]).succeeded().stdout(), "db is up\n");
    assert_eq!(folder.run("web"), web);

    // One that is not described any more is left as it is, and can be removed by its name.
    folder.write("vmm.toml", "[vm.web]\nmemory = \"160M\"\n");
    let up = folder.up();
    assert_eq!(up.stdout(), "web runs already\n");
    assert!(up.stderr().contains("db: not described any more"), "{}", up.stderr());
    assert_eq!(folder.machine("db")["described"], false);
    assert_eq!(folder.machine("db")["vm"]["state"], "running");
    assert_eq!(folder.vmm(&["destroy", "--yes", "db"]).succeeded().stdout(), "db is gone\n");
    assert_eq!(folder.status()["machines"].as_array().unwrap().len(), 1);
    folder.vmm(&["destroy", "--yes"]).succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn scripts_run_once_for_a_disk_or_after_each_start() {
    let home = TestHome::new();
    let text = "
        [[provision]]
        name = \"set up\"
        inline = \"\"\"
            cat < /dev/stdin
            echo once >> /srv/log
            echo visible words
            printf 'and no end'
        \"\"\"
        [[provision]]
        run = \"always\"
        file = \"start.sh\"
        user = \"nobody\"
    ";
    let folder = Folder::with_file(&home, "provisioned", text);
    folder.write("start.sh", "#!/bin/sh\necho $(id -un) >> /tmp/log\nread line || echo no input\n");
    let up = folder.up();
    for words in [
        "→ default: running set up",
        "default | visible words",
        "default | and no end\n",
        "running start.sh",
        "default | no input",
    ] {
        assert!(up.stderr().contains(words), "{words}: {}", up.stderr());
    }
    let log = "cat /srv/log; cat /tmp/log; ls /tmp | grep -c provision || true";
    assert_eq!(folder.shell(log), "once\nnobody\n0\n");
    assert_eq!(folder.up().stderr(), "");
    assert_eq!(folder.shell(log), "once\nnobody\n0\n");

    folder.vmm(&["down"]).succeeded();
    folder.shell_refused();
    let up = folder.up();
    assert!(!up.stderr().contains("set up") && up.stderr().contains("start.sh"), "{}", up.stderr());
    assert_eq!(folder.shell("cat /srv/log"), "once\n");

    // A script that is another one now runs, and nothing else does.
    let run = folder.run("default");
    folder.write("vmm.toml", &text.replace("echo once", "echo twice"));
    let up = folder.up();
    assert!(up.stderr().contains("→ default: run set up"), "{}", up.stderr());
    assert_eq!(folder.shell("cat /srv/log"), "once\ntwice\n");
    assert_eq!(folder.run("default"), run);

    folder.vmm(&["destroy", "--yes"]).succeeded();
    folder.up();
    assert_eq!(folder.shell("cat /srv/log"), "twice\n");
}

impl Folder<'_> {
    fn shell_refused(&self) {
        self.vmm(&["shell"]).refused_saying(&["not running"]);
    }
}

#[test]
fn a_script_that_fails_says_what_it_wrote_and_is_tried_again() {
    let home = TestHome::new();
    let text = "
        [[provision]]
        name = \"first\"
        inline = \"echo first >> /srv/log\"
        [[provision]]
        name = \"second\"
        inline = \"echo the reason >&2; false; echo never reached\"
        [[provision]]
        name = \"third\"
        inline = \"echo third >> /srv/log\"
    ";
    let folder = Folder::with_file(&home, "failing", text);
    let failure = folder.vmm(&["up"]).ended_with(125);
    assert_eq!(failure.stdout(), "");
    let said = failure.stderr();
    assert!(said.contains("default | the reason") && !said.contains("never reached"), "{said}");
    assert!(
        said.contains("vmm: default: second failed: exited with code 1; vmm up tries it again"),
        "{said}"
    );
    // Without progress the words come with the failure.
    let quiet = folder.vmm(&["up", "--quiet"]).ended_with(125).stderr();
    assert!(quiet.contains("  | the reason"), "{quiet}");
    assert_eq!(folder.shell("cat /srv/log"), "first\n");
    assert_eq!(folder.machine("default")["scripts"], serde_json::json!(["second", "third"]));

    folder.write("vmm.toml", &text.replace("false; ", ""));
    assert_eq!(folder.up().stdout(), "default is up\n");
    assert_eq!(folder.shell("cat /srv/log"), "first\nthird\n");

    folder.write("vmm.toml", "[[provision]]\nname = \"slow\"\ninline = \"sleep 1000\"\ntimeout = \"500ms\"");
    let failure = folder.vmm(&["up"]).ended_with(125).stderr();
    assert!(failure.contains("slow failed") && failure.contains("time was up"), "{failure}");
}

#[test]
fn up_waits_until_the_machine_is_healthy() {
    let home = TestHome::new();
    let text = "
        [[provision]]
        run = \"always\"
        inline = \"(sleep 2; touch /tmp/well) > /dev/null 2>&1 &\"
        [health]
        command = [\"test\", \"-e\", \"/tmp/well\"]
        interval = \"200ms\"
        retries = 1000
    ";
    let folder = Folder::with_file(&home, "healthy", text);
    folder.up();
    assert_eq!(folder.shell("ls /tmp/well"), "/tmp/well\n");
    assert_eq!(folder.machine("default")["healthy"], true);
    folder.shell("rm /tmp/well");
    assert_eq!(folder.machine("default")["healthy"], false);
    assert!(folder.vmm(&["status"]).succeeded().stdout().contains("unhealthy"));

    folder
        .write("vmm.toml", "[health]\ncommand = \"echo it aches; exit 3\"\ninterval = \"10ms\"\nretries = 2");
    let failure = folder.vmm(&["up"]).ended_with(125).stderr();
    assert!(failure.contains("  | it aches"), "{failure}");
    assert!(failure.contains("default: not healthy after 3 attempts: exited with code 3"), "{failure}");
    assert!(failure.contains("vmm shell default"), "{failure}");
}

#[test]
fn files_outside_the_project_need_their_users_word() {
    let home = TestHome::new();
    let text = "[[provision]]\nfile = \"../outside.sh\"\n";
    let folder = Folder::with_file(&home, "stranger", text);
    let outside = folder.path.with_file_name("outside.sh");
    fs::write(&outside, "echo from outside").unwrap();
    let outside = outside.to_str().unwrap();
    for words in [&["up"][..], &["up", "--dry-run"], &["up", "--yes"]] {
        let refusal = folder.vmm(words).ended_with(125).stderr();
        assert!(refusal.contains(outside) && refusal.contains("vmm up --trust"), "{refusal}");
    }
    // To look is harmless.
    folder.vmm(&["status"]).succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());

    let mut terminal = Terminal::run(home.vmm(["up"]).in_folder(&folder.path), 24, 80);
    terminal.sees("Do you trust it with them? [y/N]");
    terminal.types_line("no");
    assert_eq!(terminal.ends(), 125);

    let up = folder.vmm(&["up", "--trust"]).succeeded();
    assert!(up.stderr().contains("from outside"), "{}", up.stderr());
    folder.up();
    // The word was for that file and no other.
    folder.write("vmm.toml", "[[provision]]\nfile = \"link.sh\"\n");
    std::os::unix::fs::symlink("../outside.sh", folder.path.join("link.sh")).unwrap();
    folder.vmm(&["up"]).ended_with(125);
    let mut terminal = Terminal::run(home.vmm(["up"]).in_folder(&folder.path), 24, 80);
    terminal.sees("Do you trust it with them? [y/N]");
    terminal.types_line("y");
    terminal.sees("default runs already");
    assert_eq!(terminal.ends(), 0);
    folder.up();
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_place_and_stops_nothing_else() {
    let home = TestHome::new();
    let folder = Folder::new(&home, "wrong");
    folder.up();
    folder.write("vmm.toml", "cpus = 1\nmemroy = \"1G\"\n");
    let place = folder.path.join("vmm.toml:2:1:");
    folder
        .vmm(&["up"])
        .refused_saying(&[place.to_str().unwrap(), "unknown key \"memroy\": did you mean memory?"]);
    folder.write("vmm.toml", "cpus = \"1\"\nmemory = \"12 parsecs\"\nengine = 3\n");
    let refusal = folder.vmm(&["up"]).ended_with(125).stderr();
    let lines: Vec<&str> = refusal.lines().collect();
    for (line, place) in
        lines.iter().zip(["vmm.toml:1:8: cpus: ", "vmm.toml:2:10: memory: ", "vmm.toml:3:10: engine: "])
    {
        assert!(line.contains(place), "{refusal}");
    }
    assert_eq!(lines.len(), 3, "{refusal}");
    folder.write("vmm.toml", "version = 2\n");
    folder.vmm(&["up"]).refused_saying(&["vmm.toml:1:11", "a newer vmm"]);

    // Its machine is still its own.
    assert!(folder.vmm(&["status"]).succeeded().stderr().contains("a newer vmm"));
    assert!(folder.shell("hostname").starts_with("wrong"));
    assert_eq!(folder.vmm(&["down"]).succeeded().stdout(), "default is down\n");
    assert_eq!(folder.vmm(&["destroy", "--yes"]).succeeded().stdout(), "default is gone\n");
}

#[test]
fn a_folder_that_is_moved_keeps_its_machine_and_a_copy_has_its_own() {
    let home = TestHome::new();
    let mut folder = Folder::with_file(&home, "before", "memory = \"160M\"");
    two_ups_at_once_start_one_machine(&folder);
    folder.shell("echo kept > /srv/file; sync");
    let copy = Folder::with_file(&home, "copy", "memory = \"160M\"");
    copy.up();
    assert_eq!(copy.shell("cat /srv/file || echo none"), "none\n");

    let after = folder.path.with_file_name("after");
    if fs::metadata(&folder.path).unwrap().created().is_err() {
        vmm_tests::skip!("this file system does not know when a folder was made");
    }
    fs::rename(&folder.path, &after).unwrap();
    folder.path = after;
    let up = folder.up();
    assert_eq!(up.stdout(), "default runs already\n");
    assert!(up.stderr().contains("its VMs came along"), "{}", up.stderr());
    assert_eq!(folder.shell("cat /srv/file"), "kept\n");

    // A folder that is gone does not take its machine out of sight.
    fs::remove_dir_all(&copy.path).unwrap();
    let all = home.vmm(["status", "--all"]).run().succeeded().stdout();
    assert!(all.contains("copy (gone)") && all.contains("after"), "{all}");
    home.vmm(["destroy", "--yes", "-C"]).run().ended_with(125);
    let gone = copy.path.to_str().unwrap();
    assert_eq!(home.vmm(["destroy", "--yes", "-C", gone]).run().succeeded().stdout(), "default is gone\n");
    home.vmm(["up", "-C", gone]).run().refused_saying(&["cannot read the folder", gone]);
}

fn two_ups_at_once_start_one_machine(folder: &Folder<'_>) {
    let ups = std::thread::scope(|scope| {
        let ups = [(); 2].map(|()| scope.spawn(|| folder.up()));
        ups.map(|up| up.join().unwrap())
    });
    let mut said = ups.map(|up| up.stdout());
    said.sort();
    assert_eq!(said, ["default is up\n", "default runs already\n"]);
    assert_eq!(folder.home.ps().len(), 1);
}

#[test]
fn an_up_that_is_interrupted_or_killed_is_gone_on_with() {
    let home = TestHome::new();
    let folder = Folder::with_file(&home, "killed", "[[provision]]\ninline = \"echo begun; sleep 1000\"");
    let mut terminal = Terminal::run(home.vmm(["up"]).in_folder(&folder.path), 24, 80);
    terminal.sees("default | begun");
    terminal.presses_control('c');
    assert_eq!(terminal.ends(), 130);
    // The script has ended, and the machine goes on.
    assert_eq!(folder.shell("ps | grep -c '[s]leep 1000' || true"), "0\n");

    let mut running = home.vmm(["up"]).in_folder(&folder.path).start();
    running.expect_error("default | begun");
    running.process().kill();
    running.end();
    folder.write("vmm.toml", "[[provision]]\ninline = \"echo done >> /srv/log\"");
    assert_eq!(folder.up().stdout(), "default is up\n");
    assert_eq!(folder.shell("cat /srv/log"), "done\n");

    // Somebody removes the machine behind the project's back.
    let name = folder.machine("default")["vm"]["name"].as_str().unwrap().to_owned();
    home.vmm(["rm", "-f", &name]).run().succeeded();
    assert_eq!(folder.machine("default")["vm"], Value::Null);
    folder.up();
    assert_eq!(folder.shell("cat /srv/log"), "done\n");
}

fn a_shell_is_one_on_a_terminal(folder: &Folder<'_>) {
    let mut terminal = Terminal::run(folder.home.vmm(["shell"]).in_folder(&folder.path), 33, 101);
    terminal.sees("# ");
    terminal.types_line("stty size");
    terminal.sees("33 101");
    terminal.types_line("exit 7");
    assert_eq!(terminal.ends(), 7);
}

#[test]
fn init_writes_a_file_that_up_reads_and_overwrites_nothing() {
    let home = TestHome::empty();
    let folder = Folder::new(&home, "new");
    let said = folder.vmm(&["init"]).succeeded().stdout();
    assert!(said.contains("vmm.toml is written"), "{said}");
    let text = fs::read_to_string(folder.path.join("vmm.toml")).unwrap();
    assert!(text.contains("[[provision]]") && text.contains("[vm.web]"), "{text}");
    assert!(folder.vmm(&["up", "--dry-run"]).succeeded().stdout().starts_with("default: create new-"));
    folder.write("vmm.toml", "cpus = 2\n");
    folder.vmm(&["init"]).refused_saying(&["vmm.toml is there already"]);
    assert_eq!(fs::read_to_string(folder.path.join("vmm.toml")).unwrap(), "cpus = 2\n");
    let schema = folder.vmm(&["init", "--schema"]).succeeded().stdout();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["memory"]["type"], "string");
}

#[test]
fn a_project_has_its_own_base_overlay_and_disks() {
    let home = TestHome::new();
    let text = "base_image = \"base.qcow2\"
        overlay = \"overlay.qcow2\"
        [[disks]]
        path = \"data.raw\"
        size = \"64M\"
        [[disks]]
        path = \"data.ro.raw\"
        read_only = true
        ";
    let folder = Folder::with_file(&home, "own", text);
    let base = folder.path.join("base.qcow2");
    home.vmm(["images", "export", "alpine", base.to_str().unwrap()]).run().succeeded();
    fs::write(folder.path.join("data.ro.raw"), vec![7; 1 << 20]).unwrap();
    let before = fs::read(&base).unwrap();
    folder.up();
    let said = folder
        .shell("cat /sys/block/vdb/size /sys/block/vdc/ro; echo kept >/etc/kept; echo x >/dev/vdb; sync");
    assert_eq!(said, "131072\n1\n");
    folder.vmm(&["down"]).succeeded();
    // What is as described is left alone, and what was written is where it was said.
    folder.up();
    assert_eq!(folder.shell("cat /etc/kept"), "kept\n");
    assert!(fs::metadata(folder.path.join("overlay.qcow2")).unwrap().len() > 64 << 10);
    assert_eq!(fs::read(folder.path.join("data.raw")).unwrap()[..2], *b"x\n");
    assert!(fs::read(&base).unwrap() == before);
    // A root that is read-only needs a new disk: the snapshots that go with the old one are told.
    folder.vmm(&["down"]).succeeded();
    let vm = folder.machine("default")["vm"]["name"].as_str().unwrap().to_owned();
    home.vmm(["snapshot", "create", &vm, "first"]).run().succeeded();
    folder.write("vmm.toml", "base_image = \"base.qcow2\"\nread_only = true\n");
    let refused = folder.vmm(&["up"]).ended_with(125);
    assert!(refused.stderr().contains("default with its snapshot first"), "{}", refused.stderr());
    folder.vmm(&["up", "--yes"]).succeeded();
    assert!(!folder.path.join("overlay.qcow2").exists(), "it goes with its VM");
    assert!(folder.shell("grep ' / ' /proc/mounts").starts_with("overlay / overlay"));
    folder.vmm(&["destroy", "--yes"]).succeeded();
    assert!(fs::read(&base).unwrap() == before && folder.path.join("data.raw").exists());
}

#[test]
fn what_cannot_be_is_said_before_a_machine_is_stopped() {
    let home = TestHome::new();
    let folder = Folder::with_file(&home, "careful", "disk_size = \"2G\"\n");
    folder.up();
    let run = folder.machine("default")["vm"]["started"].clone();
    let refused = |text: &str, words: &[&str]| {
        folder.write("vmm.toml", text);
        for arguments in [&["up", "--dry-run"][..], &["up"]] {
            let said = folder.vmm(arguments).ended_with(125).stderr();
            assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
        }
        assert_eq!(folder.machine("default")["vm"]["started"], run, "{text}");
    };
    refused("disk_size = \"1500M\"\n", &["smaller"]);
    fs::write(folder.path.join("data.raw"), vec![0; 1 << 20]).unwrap();
    let twice = "disk_size = \"2G\"\n[[disks]]\npath = \"data.raw\"\n[[disks]]\npath = \"./data.raw\"\n";
    refused(twice, &["data.raw", "twice"]);
    refused("memory = \"1024\"\n", &["\"1024\" has no unit: write \"1024M\""]);
    refused("managed_image = \"alpin\"\n", &["no image alpin", "did you mean alpine?"]);
    refused("managed_image = \"alpine\"\ndisk_size = \"1M\"\nread_only = \"disk\"\n", &["smaller"]);
    if vmm_tests::engine() == "software" {
        refused("disk_size = \"2G\"\nconsole = \"virtio\"\n", &["no virtio console"]);
        refused("disk_size = \"2G\"\nballoon = true\n", &["no virtio balloon"]);
    }
    // What will be done is told as a person would write it.
    folder.write("vmm.toml", "disk_size = \"2G\"\nmemory = \"768M\"\nenv = { GREETING = \"hello\" }\n");
    let plan = folder.vmm(&["up", "--dry-run"]).succeeded().stdout();
    assert_eq!(plan, "default: restart, for env none → GREETING=hello, memory 512M → 768M\n");
    let refused = folder.vmm(&["shell", "--", "ls"]);
    refused.refused_saying(&["takes no command", "vmm exec", "-- ls"]);
    folder.vmm(&["destroy", "--yes"]).succeeded();
}
