//! Disks of VMs that run: those of the user's, what the guest discards, clones, snapshots and images made while it writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use vmm_tests::{TestHome, TestVm, skip};

/// What the files of a folder take of the host's disk, in bytes.
fn taken(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let size = |path: std::path::PathBuf| match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => taken(&path),
        metadata => metadata.map_or(0, |metadata| metadata.blocks() * 512),
    };
    entries.map(size).sum()
}

/// What `vmm exec` of a line for the guest's shell says.
fn say(home: &TestHome, vm: &str, line: &str) -> String {
    home.vmm(["exec", vm, "--", "sh", "-c", line]).run().succeeded().stdout()
}

/// Has a guest write without end: lines to a file, whose copies it renames.
fn write_without_end(vm: &TestVm<'_>) {
    let lines = "i=0; while :; do i=$((i+1)); echo $i >> log; cp log copy; mv copy done; done";
    vm.shell(&format!("cd /srv && setsid sh -c '{lines}' </dev/null >/dev/null 2>&1 & sleep 1")).succeeded();
}

/// Whether the kernel had to mend the root when it mounted it.
fn was_mended(home: &TestHome, vm: &str) -> bool {
    let said = say(home, vm, "dmesg | grep EXT4-fs || true");
    assert!(said.contains("mounted filesystem"), "{said}");
    said.contains("recovery") || said.contains("unchecked") || said.contains("orphan")
}

fn last_line(home: &TestHome, vm: &str) -> u64 {
    say(home, vm, "tail -n 2 /srv/log | head -n 1").trim().parse().expect("a number")
}

#[test]
fn what_the_guest_discards_goes_back_to_the_host() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    let layers = home.path().join("layers");
    let fill = "dd if=/dev/urandom of=/srv/file bs=1M count=64 2>/dev/null; sync";
    vm.shell(fill).succeeded();
    let full = taken(&layers);
    vm.shell("rm /srv/file; sync; fstrim /; echo x > /srv/x; sync").succeeded();
    let trimmed = taken(&layers);
    assert!(trimmed + (56 << 20) < full, "{full} before, {trimmed} after");

    // Without a word of the guest's to its disk, it is the host's tool that gives back what is zero.
    vm.shell("dd if=/dev/urandom of=/srv/file bs=1M count=32 2>/dev/null; sync").succeeded();
    vm.shell("dd if=/dev/zero of=/srv/file bs=1M count=32 conv=notrunc 2>/dev/null; sync").succeeded();
    home.vmm(["compact", "box"]).run().refused_saying(&["the VM box is running: stop it first"]);
    home.vmm(["flatten", "box"]).run().refused_saying(&["the VM box is running: stop it first"]);
    vm.stop().succeeded();
    let before = taken(&layers);
    let space = home.json(&["compact", "--json", "box"]);
    let given_back = space["given_back"].as_u64().expect("a number");
    assert!(given_back > 28 << 20, "{space}");
    assert!(taken(&layers) + (28 << 20) < before);
    home.vmm(["start", "box"]).run().succeeded();
    vm.shell("tr -d '\\0' < /srv/file | wc -c | grep -qx 0 && cat /srv/x").succeeded();
}

#[test]
fn a_vm_that_runs_is_cloned_while_it_writes() {
    let home = TestHome::new();
    let source = home.machine("source", &[]);
    write_without_end(&source);
    let cloned = home.json(&["clone", "source", "first", "--json"]);
    assert_eq!(cloned["name"], "first");
    assert!(cloned["frozen_ms"].as_f64().is_some_and(|frozen| frozen > 0.0), "{cloned}");
    // Two more at once, and a prune beside them.
    thread::scope(|scope| {
        let clone = |name| {
            let home = &home;
            scope.spawn(move || home.vmm(["clone", "source", name]).run().succeeded().stdout())
        };
        let clones = [clone("second"), clone("third")];
        // While a VM is being made it removes nothing, and says so.
        let _ = home.vmm(["images", "prune"]).run();
        assert_eq!(clones.map(|clone| clone.join().expect("a clone")), ["second\n", "third\n"]);
    });
    // The source goes on.
    let before = last_line(&home, "source");
    while last_line(&home, "source") == before {}
    home.vmm(["stop", "source"]).run().succeeded();
    for name in ["first", "third"] {
        home.vmm(["start", name]).run().succeeded();
        assert!(!was_mended(&home, name), "{name}");
        assert!((1..=before).contains(&last_line(&home, name)), "{name}");
        // Each is its own.
        say(&home, name, &format!("echo {name} > /srv/own; sync"));
    }
    assert_eq!(say(&home, "first", "cat /srv/own"), "first\n");
    home.vmm(["rm", "--force", "first", "second"]).run().succeeded();
    home.vmm(["start", "source"]).run().succeeded();
    assert!(!was_mended(&home, "source"));
    assert!(last_line(&home, "source") >= before);
    assert_eq!(say(&home, "source", "cat /srv/own 2>/dev/null || echo none"), "none\n");
    home.vmm(["rm", "--force", "source", "third"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_snapshot_of_a_vm_that_runs_brings_back_that_moment() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    // Nobody syncs: what is in the guest's memory is written back.
    vm.shell("echo before > /srv/file").succeeded();
    let taken = home.json(&["snapshot", "create", "box", "good", "--json"]);
    assert!(taken["name"] == "good" && taken["frozen_ms"].as_f64().is_some(), "{taken}");
    vm.shell("echo after > /srv/file; sync").succeeded();
    home.vmm(["snapshot", "create", "box", "good"])
        .run()
        .refused_saying(&["there is a snapshot good already"]);
    home.vmm(["snapshot", "restore", "box", "good"])
        .run()
        .refused_saying(&["the VM box is running: stop it first"]);
    // A VM that loses its plug keeps what it synced, in whichever layer that is.
    home.vmm(["kill", "box"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(say(&home, "box", "cat /srv/file"), "after\n");
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["snapshot", "restore", "box", "good"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(say(&home, "box", "cat /srv/file"), "before\n");
    assert!(!was_mended(&home, "box"));
    home.vmm(["rm", "--force", "box"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn host_the_file_system_of_an_image_of_a_vm_that_writes_is_clean() {
    let available = |program| Command::new(program).arg("-V").output().is_ok();
    if !available("e2fsck") || !available("qemu-img") {
        skip!("this host has no e2fsck or qemu-img");
    }
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    write_without_end(&vm);
    home.vmm(["commit", "box", "busy"]).run().succeeded();
    let [packed, raw] = ["busy.qcow2", "busy.raw"].map(|name| home.path().join(name));
    home.vmm(["images", "export", "busy", "busy.qcow2"]).run().succeeded();
    let converted = Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&packed, &raw]).status();
    assert!(converted.expect("qemu-img").success());
    let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&raw).output().expect("e2fsck");
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && !said.contains("recover"), "{said}");
}

#[test]
fn a_disk_of_the_users_is_written_by_one_vm_and_read_by_others() {
    let home = TestHome::new();
    let file = home.path().join("data.raw");
    fs::File::create(&file).and_then(|file| file.set_len(64 << 20)).unwrap();
    let named = file.to_str().unwrap();
    let vm = home.machine("box", &["--disk", named]);
    vm.shell("echo ours | dd of=/dev/vdb conv=fsync").succeeded();
    assert!(fs::read(&file).unwrap().starts_with(b"ours\n"));
    home.vmm(["run", "--disk", named, "alpine", "--", "true"]).run().refused_saying(&["data.raw"]);
    vm.stop().succeeded();

    let reads = format!("{named},ro");
    let script = "head -c 4 /dev/vdb; echo no > /dev/vdb || cat /sys/block/vdb/ro";
    let arguments = ["run", "--disk", &reads, "--disk", &reads, "alpine", "--", "sh", "-c", script];
    assert_eq!(home.vmm(arguments).run().succeeded().stdout(), "ours1\n");
    home.vmm(["run", "--disk", "/nowhere.raw", "alpine"])
        .run()
        .refused_saying(&["cannot find the disk /nowhere.raw"]);
}
