//! `vmm cp`: files and trees into a machine and out of it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vmm_tests::{PATIENCE, TestHome, random};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// All that a tree is: names, kinds, modes, lengths, links, times to the nanosecond, and contents.
fn listing(tree: &Path) -> String {
    let script = "find . -printf '%P %y %m %s %l %T@ %n\n' | sort | sed 's/^\\(.* d [0-7]*\\) [0-9]* /\\1 /'";
    let output = Command::new("sh").args(["-c", script]).current_dir(tree).output().unwrap();
    let sums = Command::new("sh")
        .args(["-c", "find . -type f -print0 | sort -z | xargs -0 sha256sum"])
        .current_dir(tree)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(sums.stdout).unwrap()
}

/// A tree with what trees have.
fn make_tree(tree: &Path) {
    fs::create_dir_all(tree.join("inner/empty")).unwrap();
    fs::write(tree.join("script"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(tree.join("inner/random"), random(3 << 20)).unwrap();
    fs::hard_link(tree.join("inner/random"), tree.join("twin")).unwrap();
    symlink("inner/random", tree.join("link")).unwrap();
    symlink("/nowhere", tree.join("dangling")).unwrap();
    for name in ["with space", "new\nline", "-rf", "grüß", "quote\"'"] {
        fs::write(tree.join(name), name).unwrap();
    }
    fs::write(tree.join("n".repeat(255)), "a long name").unwrap();
    for number in 0..500 {
        fs::write(tree.join("inner").join(format!("small-{number}")), format!("{number}")).unwrap();
    }
    fs::set_permissions(tree.join("inner/empty"), fs::Permissions::from_mode(0o1755)).unwrap();
    let old = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for name in ["script", "inner/empty", "inner", "."] {
        File::open(tree.join(name)).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn a_file_goes_in_and_comes_back() {
    let home = TestHome::new();
    let vm = home.machine("one", &[]);
    let file = home.path().join("file");
    fs::write(&file, random(20_000_003)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    home.vmm(["cp", "file", "one:/tmp/there"]).run().succeeded();
    let sum = Command::new("sha256sum").arg(&file).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap().to_owned();
    let there =
        vm.shell("sha256sum /tmp/there; stat -c '%a %u %g' /tmp/there; ls -A /tmp").succeeded().stdout();
    assert!(there.starts_with(&sum) && there.contains("\n640 0 0\nthere\n"), "{there}");
    home.vmm(["cp", "one:/tmp/there", "back"]).run().succeeded();
    assert!(fs::read(home.path().join("back")).unwrap() == fs::read(&file).unwrap());
    // A relative path begins in root's home, and a file is replaced.
    home.vmm(["cp", "file", "one:"]).run().succeeded();
    fs::write(&file, "short").unwrap();
    home.vmm(["cp", "file", "one:file"]).run().succeeded();
    assert_eq!(vm.shell("cat ~/file").succeeded().stdout(), "short");
}

#[test]
fn a_tree_goes_in_and_comes_back_as_it_was() {
    let home = TestHome::new();
    let vm = home.machine("tree", &[]);
    let tree = home.path().join("tree");
    make_tree(&tree);
    home.vmm(["cp", "tree", "tree:/srv/new"]).run().succeeded();
    assert_eq!(vm.shell("/srv/new/script; ls -A /srv").succeeded().stdout(), "ran\nnew\n");
    home.vmm(["cp", "tree:/srv/new", "back"]).run().succeeded();
    assert_eq!(listing(&home.path().join("back")), listing(&tree));
    // Into what is there, as `cp -a` does: beside what is in it.
    fs::create_dir(home.path().join("there")).unwrap();
    home.vmm(["cp", "tree:/srv/new", "tree:/etc/hostname", "there/"]).run().succeeded();
    assert_eq!(names(&home.path().join("there")), ["hostname", "new"]);
    assert_eq!(listing(&home.path().join("there/new")), listing(&tree));
    vm.shell("mkdir -p /srv/more/tree; echo kept > /srv/more/tree/kept; echo old > /srv/more/tree/script")
        .succeeded();
    home.vmm(["cp", "tree", "tree:/srv/more"]).run().succeeded();
    let merged = vm.shell("cd /srv/more/tree; cat kept; ./script; ls -A .. | wc -l").succeeded().stdout();
    assert_eq!(merged, "kept\nran\n1\n");
}

#[test]
fn holes_stay_holes_both_ways() {
    let home = TestHome::new();
    let vm = home.machine("holes", &[]);
    let sparse = home.path().join("sparse");
    let file = File::create(&sparse).unwrap();
    file.write_all_at(b"in the middle", 5 << 30).unwrap();
    file.set_len(10 << 30).unwrap();
    home.vmm(["cp", "sparse", "holes:/srv/sparse"]).run().succeeded();
    let there = vm.shell("stat -c '%s' /srv/sparse; du -k /srv/sparse | cut -f 1").succeeded().stdout();
    let numbers: Vec<u64> = there.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers[0] == 10 << 30 && numbers[1] < 1024, "{numbers:?}");
    home.vmm(["cp", "holes:/srv/sparse", "back"]).run().succeeded();
    let back = File::open(home.path().join("back")).unwrap();
    let mut middle = [0; 13];
    back.read_exact_at(&mut middle, 5 << 30).unwrap();
    assert_eq!(&middle, b"in the middle");
    let metadata = back.metadata().unwrap();
    assert!(metadata.len() == 10 << 30 && metadata.blocks() < 4096, "{} blocks", metadata.blocks());
}

#[test]
fn a_tar_archive_goes_in_and_out_by_the_standard_streams() {
    let home = TestHome::new();
    let vm = home.machine("tar", &[]);
    let tree = home.path().join("tree");
    make_tree(&tree);
    let made =
        Command::new("tar").args(["-C", "tree", "-cf", "-", "."]).current_dir(home.path()).output().unwrap();
    home.vmm(["cp", "-", "tar:/srv/new"]).stdin(made.stdout.clone()).run().succeeded();
    vm.shell("/srv/new/script").succeeded();
    let out = home.vmm(["cp", "tar:/srv/new/.", "-"]).run().succeeded();
    fs::create_dir(home.path().join("back")).unwrap();
    fs::write(home.path().join("out.tar"), out.stdout_bytes()).unwrap();
    let unpacked =
        Command::new("tar").args(["-xpf", "../out.tar"]).current_dir(home.path().join("back")).output();
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let seconds = |text: String| {
        let lines =
            text.lines().map(|line| line.split(' ').filter(|word| !word.contains('.')).collect::<Vec<_>>());
        lines.map(|words| words.join(" ")).collect::<Vec<_>>()
    };
    // The archive that GNU tar made has whole seconds.
    assert_eq!(seconds(listing(&home.path().join("back"))), seconds(listing(&tree)));
    // One that is cut is none, also where a member ends.
    let refused = home.vmm(["cp", "-", "tar:/srv/cut"]).stdin(&made.stdout[..512]).run();
    refused.refused_saying(&["in the guest", "ends in the middle"]);
    home.vmm(["cp", "-", "tar:/srv/cut"])
        .stdin("no archive")
        .run()
        .refused_saying(&["in the guest", "archive"]);
    assert_eq!(vm.shell("ls -A /srv").succeeded().stdout(), "new\n");
}

#[test]
fn what_cannot_be_copied_is_one_line_that_says_which_side() {
    let home = TestHome::new();
    let vm = home.machine("refused", &[]);
    vm.shell("mkdir /small && mount -t tmpfs -o size=1m tmpfs /small; mkfifo /srv/pipe; mkdir /srv/d; mkfifo /srv/d/p")
        .succeeded();
    fs::write(home.path().join("file"), random(4 << 20)).unwrap();
    let cp = |arguments: &[&str]| home.vmm([&["cp"], arguments].concat()).run();
    cp(&["file", "refused:/small"]).refused_saying(&["in the guest", "/small/file", "No space left"]);
    assert_eq!(vm.shell("ls -A /small").succeeded().stdout(), "", "nothing is left of it");
    cp(&["file", "refused:/sys/kernel/"]).refused_saying(&["in the guest", "/sys/kernel"]);
    cp(&["file", "refused:/nowhere/file"]).refused_saying(&["in the guest", "/nowhere", "No such file"]);
    cp(&["file", "refused:/nowhere/"]).refused_saying(&["in the guest", "/nowhere"]);
    cp(&["file", "refused:/dev/null"]).refused_saying(&["in the guest", "/dev/null is a device"]);
    cp(&["missing", "refused:/srv"]).refused_saying(&["on the host", "missing", "No such file"]);
    cp(&["refused:/missing", "."]).refused_saying(&["in the guest", "/missing", "No such file"]);
    cp(&["refused:/srv/pipe", "."]).refused_saying(&["in the guest", "/srv/pipe", "--devices"]);
    cp(&["refused:/srv/d", "."]).refused_saying(&["in the guest", "/srv/d/p", "--devices"]);
    cp(&["refused:/etc/hostname", "nowhere/file"]).refused_saying(&[
        "on the host",
        "nowhere",
        "No such file",
    ]);
    cp(&["refused:/etc/hostname", "file/"]).refused_saying(&["on the host", "file", "no folder"]);
    cp(&["--owner", "nobody-at-all", "file", "refused:/srv"]).refused_saying(&["nobody-at-all", "guest"]);
    cp(&["file", "other"]).refused_saying(&["no side is in a VM", "VM:PATH"]);
    cp(&["file", "nobody:/srv"]).refused_saying(&["nobody", "vmm ps"]);
    assert_eq!(vm.shell("ls -A /srv").succeeded().stdout(), "d\npipe\n");
    assert!(!names(home.path()).iter().any(|name| name == "d" || name.ends_with(".partial")));
    cp(&["--devices", "refused:/srv/d", "."]).succeeded();
    cp(&["--owner", "nobody", "file", "refused:/srv"]).succeeded();
    assert_eq!(vm.shell("stat -c %U /srv/file").succeeded().stdout(), "nobody\n");
}

/// Waits until a line for the guest's shell succeeds.
fn until(vm: &vmm_tests::TestVm<'_>, line: &str) {
    vm.shell(&format!("for i in $(seq 600); do if {line}; then exit 0; fi; sleep 0.1; done; exit 1"))
        .succeeded();
}

#[test]
fn a_client_that_is_killed_leaves_the_target_as_it_was() {
    let home = TestHome::new();
    let vm = home.machine("killed", &[]);
    vm.shell("echo as it was > /srv/file").succeeded();
    // Into the guest: a tree that is half there.
    let tree = home.path().join("tree");
    make_tree(&tree);
    let made =
        Command::new("tar").args(["-cf", "-", "tree"]).current_dir(home.path()).output().unwrap().stdout;
    let mut half = home.vmm(["cp", "-", "killed:/srv"]).start();
    half.write(&made[..made.len() / 2]);
    until(&vm, "ls -A /srv | grep -q partial");
    half.signal(Signal::KILL);
    half.end();
    until(&vm, "! ls -A /srv | grep -q partial");
    assert_eq!(vm.shell("ls -A /srv; cat /srv/file").succeeded().stdout(), "file\nas it was\n");
    // One that is told to end clears up before it does.
    let mut half = home.vmm(["cp", "-", "killed:/srv/new"]).start();
    half.write(&made[..made.len() / 2]);
    until(&vm, "ls -A /srv | grep -q partial");
    half.signal(Signal::INT);
    assert_eq!(half.end().0, 130);
    until(&vm, "! ls -A /srv | grep -q partial");
    // Out of the guest: what is there stays, though the half of the new one lies beside it.
    vm.shell("dd if=/dev/zero of=/srv/large bs=1M count=200").succeeded();
    fs::create_dir(home.path().join("there")).unwrap();
    fs::write(home.path().join("there/large"), "as it was").unwrap();
    let half = home.vmm(["cp", "killed:/srv/large", "there"]).start();
    let deadline = Instant::now() + PATIENCE;
    while names(&home.path().join("there")).len() < 2 {
        assert!(Instant::now() < deadline, "nothing comes");
        std::thread::yield_now();
    }
    half.signal(Signal::KILL);
    half.end();
    assert_eq!(fs::read_to_string(home.path().join("there/large")).unwrap(), "as it was");
}

#[test]
fn a_guest_that_shuts_down_waits_for_no_copy() {
    let home = TestHome::new();
    let vm = home.machine("down", &[]);
    let mut copy = home.vmm(["cp", "-", "down:/srv/new"]).start();
    copy.write(&[0x41; 1]);
    until(&vm, "ls -A /srv | grep -q partial");
    assert!(vm.stop().succeeded().took() < Duration::from_secs(60));
    let (status, said) = copy.end();
    assert_eq!(status, 125, "{said}");
    vm.exec(&["true"]).refused_saying(&["not running"]);
    home.vmm(["cp", "down:/etc/hostname", "."]).run().refused_saying(&["down", "not running"]);
}

#[test]
fn a_program_reads_and_writes_files() {
    let home = TestHome::new();
    let vm = home.machine("library", &[]);
    let sandbox = vmm::Sandbox::attach(&home.open(), "library");
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(error) => panic!("{error}"),
    };
    sandbox.write_file("/srv/greeting", b"hello\n").unwrap();
    assert_eq!(
        vm.shell("stat -c '%a %U' /srv/greeting; cat /srv/greeting").succeeded().stdout(),
        "644 root\nhello\n"
    );
    vm.shell("ln -s greeting /srv/link").succeeded();
    assert_eq!(sandbox.read_file("/srv/link", 100).unwrap(), b"hello\n");
    assert_eq!(sandbox.read_file("/srv/nothing", 100).unwrap_err().code(), "no_such_file");
    assert_eq!(sandbox.read_file("/srv/greeting", 5).unwrap_err().code(), "unfit_file");
    assert_eq!(sandbox.write_file("/srv", b"x").unwrap_err().code(), "unfit_file");
    assert!(String::from_utf8(sandbox.read_file("/proc/version", 1000).unwrap()).unwrap().contains("Linux"));
    let options = vmm::CopyOptions::default();
    let copied = sandbox.copy_out(["/srv/greeting", "/srv/link"], home.path(), &options).unwrap();
    assert_eq!(copied.entries, 2);
    assert_eq!(fs::read_to_string(home.path().join("link")).unwrap(), "hello\n");
}
