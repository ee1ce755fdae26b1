//! `vmm cp`: files and trees into a machine and out of it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vmm_tests::{PATIENCE, TestHome, TestVm, random};

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
fn files_and_trees_go_in_and_come_back() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    each_from_nothing(
        &home,
        &vm,
        &[
            a_file_goes_in_and_comes_back,
            a_tree_goes_in_and_comes_back_as_it_was,
            holes_stay_holes_both_ways,
            a_tar_archive_goes_in_and_out_by_the_standard_streams,
            a_program_reads_and_writes_files,
        ],
    );
}

#[test]
fn what_cannot_be_copied_or_is_cut_leaves_nothing() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    each_from_nothing(
        &home,
        &vm,
        &[
            what_cannot_be_copied_is_one_line_that_says_which_side,
            a_client_that_is_killed_leaves_the_target_as_it_was,
        ],
    );
    a_guest_that_shuts_down_waits_for_no_copy(&home, &vm);
}

/// Tells stories in one machine, each of which finds no file of the others', on either side.
fn each_from_nothing(home: &TestHome, vm: &TestVm<'_>, stories: &[fn(&TestHome, &TestVm<'_>)]) {
    let of_the_home = names(home.path());
    for story in stories {
        story(home, vm);
        for name in names(home.path()).iter().filter(|name| !of_the_home.contains(name)) {
            let path = home.path().join(name);
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        vm.shell("find /root /srv /tmp -mindepth 1 -delete").succeeded();
    }
}

fn a_file_goes_in_and_comes_back(home: &TestHome, vm: &TestVm<'_>) {
    let file = home.path().join("file");
    fs::write(&file, random(20_000_003)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    home.vmm(["cp", "file", "box:/tmp/there"]).run().succeeded();
    let sum = Command::new("sha256sum").arg(&file).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap().to_owned();
    let there =
        vm.shell("sha256sum /tmp/there; stat -c '%a %u %g' /tmp/there; ls -A /tmp").succeeded().stdout();
    assert!(there.starts_with(&sum) && there.contains("\n640 0 0\nthere\n"), "{there}");
    home.vmm(["cp", "box:/tmp/there", "back"]).run().succeeded();
    assert!(fs::read(home.path().join("back")).unwrap() == fs::read(&file).unwrap());
    // A relative path begins in root's home, and a file is replaced.
    home.vmm(["cp", "file", "box:"]).run().succeeded();
    fs::write(&file, "short").unwrap();
    home.vmm(["cp", "file", "box:file"]).run().succeeded();
    assert_eq!(vm.shell("cat ~/file").succeeded().stdout(), "short");
}

fn a_tree_goes_in_and_comes_back_as_it_was(home: &TestHome, vm: &TestVm<'_>) {
    let tree = home.path().join("tree");
    make_tree(&tree);
    home.vmm(["cp", "tree", "box:/srv/new"]).run().succeeded();
    assert_eq!(vm.shell("/srv/new/script; ls -A /srv").succeeded().stdout(), "ran\nnew\n");
    home.vmm(["cp", "box:/srv/new", "back"]).run().succeeded();
    assert_eq!(listing(&home.path().join("back")), listing(&tree));
    // Into what is there, as `cp -a` does: beside what is in it.
    fs::create_dir(home.path().join("there")).unwrap();
    home.vmm(["cp", "box:/srv/new", "box:/etc/hostname", "there/"]).run().succeeded();
    assert_eq!(names(&home.path().join("there")), ["hostname", "new"]);
    assert_eq!(listing(&home.path().join("there/new")), listing(&tree));
    vm.shell("mkdir -p /srv/more/tree; echo kept > /srv/more/tree/kept; echo old > /srv/more/tree/script")
        .succeeded();
    home.vmm(["cp", "tree", "box:/srv/more"]).run().succeeded();
    let merged = vm.shell("cd /srv/more/tree; cat kept; ./script; ls -A .. | wc -l").succeeded().stdout();
    assert_eq!(merged, "kept\nran\n1\n");
}

fn holes_stay_holes_both_ways(home: &TestHome, vm: &TestVm<'_>) {
    let sparse = home.path().join("sparse");
    let file = File::create(&sparse).unwrap();
    file.write_all_at(b"in the middle", 5 << 30).unwrap();
    file.set_len(10 << 30).unwrap();
    home.vmm(["cp", "sparse", "box:/srv/sparse"]).run().succeeded();
    let there = vm.shell("stat -c '%s' /srv/sparse; du -k /srv/sparse | cut -f 1").succeeded().stdout();
    let numbers: Vec<u64> = there.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers[0] == 10 << 30 && numbers[1] < 1024, "{numbers:?}");
    home.vmm(["cp", "box:/srv/sparse", "back"]).run().succeeded();
    let back = File::open(home.path().join("back")).unwrap();
    let mut middle = [0; 13];
    back.read_exact_at(&mut middle, 5 << 30).unwrap();
    assert_eq!(&middle, b"in the middle");
    let metadata = back.metadata().unwrap();
    assert!(metadata.len() == 10 << 30 && metadata.blocks() < 4096, "{} blocks", metadata.blocks());
}

fn a_tar_archive_goes_in_and_out_by_the_standard_streams(home: &TestHome, vm: &TestVm<'_>) {
    let tree = home.path().join("tree");
    make_tree(&tree);
    let made =
        Command::new("tar").args(["-C", "tree", "-cf", "-", "."]).current_dir(home.path()).output().unwrap();
    home.vmm(["cp", "-", "box:/srv/new"]).stdin(made.stdout.clone()).run().succeeded();
    vm.shell("/srv/new/script").succeeded();
    let out = home.vmm(["cp", "box:/srv/new/.", "-"]).run().succeeded();
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
    let refused = home.vmm(["cp", "-", "box:/srv/cut"]).stdin(&made.stdout[..512]).run();
    refused.refused_saying(&["in the guest", "ends in the middle"]);
    home.vmm(["cp", "-", "box:/srv/cut"])
        .stdin("no archive")
        .run()
        .refused_saying(&["in the guest", "archive"]);
    assert_eq!(vm.shell("ls -A /srv").succeeded().stdout(), "new\n");
}

fn what_cannot_be_copied_is_one_line_that_says_which_side(home: &TestHome, vm: &TestVm<'_>) {
    vm.shell("mkdir /small && mount -t tmpfs -o size=1m tmpfs /small; mkfifo /srv/pipe; mkdir /srv/d; mkfifo /srv/d/p")
        .succeeded();
    fs::write(home.path().join("file"), random(4 << 20)).unwrap();
    let cp = |arguments: &[&str]| home.vmm([&["cp"], arguments].concat()).run();
    cp(&["file", "box:/small"]).refused_saying(&["in the guest", "/small/file", "No space left"]);
    assert_eq!(vm.shell("ls -A /small").succeeded().stdout(), "", "nothing is left of it");
    cp(&["file", "box:/sys/kernel/"]).refused_saying(&["in the guest", "/sys/kernel"]);
    cp(&["file", "box:/nowhere/file"]).refused_saying(&["in the guest", "/nowhere", "No such file"]);
    cp(&["file", "box:/nowhere/"]).refused_saying(&["in the guest", "/nowhere"]);
    cp(&["file", "box:/dev/null"]).refused_saying(&["in the guest", "/dev/null is a device"]);
    cp(&["missing", "box:/srv"]).refused_saying(&["on the host", "missing", "No such file"]);
    cp(&["box:/missing", "."]).refused_saying(&["in the guest", "/missing", "No such file"]);
    cp(&["box:/srv/pipe", "."]).refused_saying(&["in the guest", "/srv/pipe", "--devices"]);
    cp(&["box:/srv/d", "."]).refused_saying(&["in the guest", "/srv/d/p", "--devices"]);
    cp(&["box:/etc/hostname", "nowhere/file"]).refused_saying(&["on the host", "nowhere", "No such file"]);
    cp(&["box:/etc/hostname", "file/"]).refused_saying(&["on the host", "file", "no folder"]);
    cp(&["--owner", "nobody-at-all", "file", "box:/srv"]).refused_saying(&["nobody-at-all", "guest"]);
    cp(&["file", "other"]).refused_saying(&["no side is in a VM", "VM:PATH"]);
    cp(&["file", "nobody:/srv"]).refused_saying(&["nobody", "vmm ps"]);
    assert_eq!(vm.shell("ls -A /srv").succeeded().stdout(), "d\npipe\n");
    assert!(!names(home.path()).iter().any(|name| name == "d" || name.ends_with(".partial")));
    cp(&["--devices", "box:/srv/d", "."]).succeeded();
    cp(&["--owner", "nobody", "file", "box:/srv"]).succeeded();
    assert_eq!(vm.shell("stat -c %U /srv/file").succeeded().stdout(), "nobody\n");
}

/// Waits until a line for the guest's shell succeeds.
fn until(vm: &TestVm<'_>, line: &str) {
    vm.shell(&format!("for i in $(seq 600); do if {line}; then exit 0; fi; sleep 0.1; done; exit 1"))
        .succeeded();
}

fn a_client_that_is_killed_leaves_the_target_as_it_was(home: &TestHome, vm: &TestVm<'_>) {
    vm.shell("echo as it was > /srv/file").succeeded();
    // Into the guest: a tree that is half there.
    let tree = home.path().join("tree");
    make_tree(&tree);
    let made =
        Command::new("tar").args(["-cf", "-", "tree"]).current_dir(home.path()).output().unwrap().stdout;
    let mut half = home.vmm(["cp", "-", "box:/srv"]).start();
    half.write(&made[..made.len() / 2]);
    until(vm, "ls -A /srv | grep -q partial");
    half.signal(Signal::KILL);
    half.end();
    until(vm, "! ls -A /srv | grep -q partial");
    assert_eq!(vm.shell("ls -A /srv; cat /srv/file").succeeded().stdout(), "file\nas it was\n");
    // One that is told to end clears up before it does.
    let mut half = home.vmm(["cp", "-", "box:/srv/new"]).start();
    half.write(&made[..made.len() / 2]);
    until(vm, "ls -A /srv | grep -q partial");
    half.signal(Signal::INT);
    assert_eq!(half.end().0, 130);
    until(vm, "! ls -A /srv | grep -q partial");
    // Out of the guest: what is there stays, though the half of the new one lies beside it.
    vm.shell("dd if=/dev/zero of=/srv/large bs=1M count=200").succeeded();
    fs::create_dir(home.path().join("there")).unwrap();
    fs::write(home.path().join("there/large"), "as it was").unwrap();
    let half = home.vmm(["cp", "box:/srv/large", "there"]).start();
    let deadline = Instant::now() + PATIENCE;
    while names(&home.path().join("there")).len() < 2 {
        assert!(Instant::now() < deadline, "nothing comes");
        std::thread::yield_now();
    }
    half.signal(Signal::KILL);
    half.end();
    assert_eq!(fs::read_to_string(home.path().join("there/large")).unwrap(), "as it was");
}

fn a_guest_that_shuts_down_waits_for_no_copy(home: &TestHome, vm: &TestVm<'_>) {
    let mut copy = home.vmm(["cp", "-", "box:/srv/new"]).start();
    copy.write(&[0x41; 1]);
    until(vm, "ls -A /srv | grep -q partial");
    assert!(vm.stop().succeeded().took() < Duration::from_secs(60));
    let (status, said) = copy.end();
    assert_eq!(status, 125, "{said}");
    vm.exec(&["true"]).refused_saying(&["not running"]);
    home.vmm(["cp", "box:/etc/hostname", "."]).run().refused_saying(&["box", "not running"]);
}

fn a_program_reads_and_writes_files(home: &TestHome, vm: &TestVm<'_>) {
    let sandbox = vmm::Sandbox::attach(&home.open(), "box");
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
