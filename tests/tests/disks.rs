//! Disks: their size, their snapshots, their clones, and disks of the user's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::Value;
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

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What `df` says of the root, in MiB.
fn root_size(vm: &TestVm<'_>) -> u64 {
    let said = vm.exec(&["df", "-m", "/"]).succeeded().stdout();
    let size = said.lines().last().and_then(|line| line.split_whitespace().nth(1));
    size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn a_disk_is_as_large_as_asked_for_and_grows_later() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--disk-size", "3G"]);
    assert!(root_size(&vm) > 2800);
    vm.shell("echo kept > /root/file").succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "5G", "box"]).run().succeeded();
    assert!(root_size(&vm) > 4700);
    let layers = || home.path().join("layers").read_dir().expect("a folder").count();
    let before = layers();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "5G", "box"]).run().succeeded();
    assert_eq!(layers(), before, "a disk that is as large already gets no layer");
    assert_eq!(vm.exec(&["cat", "/root/file"]).succeeded().stdout(), "kept\n");
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "1G", "box"])
        .run()
        .refused_saying(&["it can become larger and not smaller"]);
}

#[test]
fn a_clone_goes_on_from_the_disk_and_then_each_is_its_own() {
    let home = TestHome::new();
    let first = home.machine("first", &[]);
    first.shell("echo shared > /root/file").succeeded();
    home.vmm(["stop", "first"]).run().succeeded();

    assert_eq!(home.vmm(["clone", "first", "second"]).run().succeeded().stdout(), "second\n");
    // A VM that is cloned again and again gets no deeper by it.
    let layers = || home.path().join("layers").read_dir().expect("a folder").count();
    let before = layers();
    home.vmm(["clone", "first", "third"]).run().succeeded();
    assert_eq!(layers(), before + 1);
    home.vmm(["rm", "third"]).run().succeeded();
    assert_eq!(layers(), before);
    home.vmm(["start", "first", "second"]).run().succeeded();
    let write = |vm: &str| {
        let script = format!("cat /root/file; echo {vm} > /root/file; sync");
        home.vmm(["exec", vm, "--", "sh", "-c", &script]).run().succeeded().stdout()
    };
    assert_eq!([write("first"), write("second")], ["shared\n", "shared\n"]);
    assert_eq!(home.vmm(["exec", "second", "--", "hostname"]).run().succeeded().stdout(), "second\n");
    let read = |vm: &str| home.vmm(["exec", vm, "--", "cat", "/root/file"]).run().succeeded().stdout();
    assert_eq!([read("first"), read("second")], ["first\n", "second\n"]);

    // What they share stays until the last of them is gone.
    home.vmm(["rm", "--force", "first"]).run().succeeded();
    home.vmm(["stop", "second"]).run().succeeded();
    home.vmm(["start", "second"]).run().succeeded();
    assert_eq!(read("second"), "second\n");
    home.vmm(["stop", "second"]).run().succeeded();
    home.vmm(["clone", "second", "second"]).run().refused_saying(&["second", "in use"]);
    home.vmm(["rm", "--force", "second"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_snapshot_brings_the_disk_back() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    let write = |text: &str| {
        vm.shell(&format!("echo {text} > /root/file")).succeeded();
    };
    let read = || vm.exec(&["cat", "/root/file"]).succeeded().stdout();
    let vmm = |arguments: &[&str]| home.vmm(arguments).run().succeeded().stdout();
    write("before");
    vmm(&["stop", "box"]);
    vmm(&["snapshot", "create", "box", "good"]);
    home.vmm(["snapshot", "create", "box", "good"])
        .run()
        .refused_saying(&["there is a snapshot good already"]);
    vmm(&["start", "box"]);
    write("after");
    vmm(&["stop", "box"]);
    vmm(&["snapshot", "restore", "box", "good"]);
    vmm(&["start", "box"]);
    assert_eq!(read(), "before\n");
    vmm(&["stop", "box"]);
    assert!(vmm(&["snapshot", "list", "box", "--json"]).contains("\"good\""));
    vmm(&["snapshot", "rm", "box", "good"]);
    home.vmm(["snapshot", "restore", "box", "good"])
        .run()
        .refused_saying(&["the VM box has no snapshot good"]);
    vmm(&["start", "box"]);
    assert_eq!(read(), "before\n");
    vmm(&["rm", "--force", "box"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
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

#[test]
fn what_the_guest_discards_goes_back_to_the_host() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    let layers = home.path().join("layers");
    let fill = "dd if=/dev/urandom of=/root/file bs=1M count=64 2>/dev/null; sync";
    vm.shell(fill).succeeded();
    let full = taken(&layers);
    vm.shell("rm /root/file; sync; fstrim /; echo x > /root/x; sync").succeeded();
    let trimmed = taken(&layers);
    assert!(trimmed + (56 << 20) < full, "{full} before, {trimmed} after");

    // Without a word of the guest's to its disk, it is the host's tool that gives back what is zero.
    vm.shell("dd if=/dev/urandom of=/root/file bs=1M count=32 2>/dev/null; sync").succeeded();
    vm.shell("dd if=/dev/zero of=/root/file bs=1M count=32 conv=notrunc 2>/dev/null; sync").succeeded();
    home.vmm(["compact", "box"]).run().refused_saying(&["the VM box is running: stop it first"]);
    home.vmm(["flatten", "box"]).run().refused_saying(&["the VM box is running: stop it first"]);
    vm.stop().succeeded();
    let before = taken(&layers);
    let space = json(&home.vmm(["compact", "--json", "box"]).run().succeeded().stdout());
    let given_back = space["given_back"].as_u64().expect("a number");
    assert!(given_back > 28 << 20, "{space}");
    assert!(taken(&layers) + (28 << 20) < before);
    home.vmm(["start", "box"]).run().succeeded();
    vm.shell("tr -d '\\0' < /root/file | wc -c | grep -qx 0 && cat /root/x").succeeded();
}

#[test]
fn a_flattened_disk_has_one_layer_above_its_image() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    let vmm = |arguments: &[&str]| home.vmm(arguments).run().succeeded().stdout();
    let layers = || home.path().join("layers").read_dir().expect("a folder").count();
    let few = layers();
    for number in 0..3 {
        vm.shell(&format!(
            "dd if=/dev/urandom of=/root/file bs=1M count=8 2>/dev/null; echo {number} > /root/number"
        ))
        .succeeded();
        vm.stop().succeeded();
        vmm(&["snapshot", "create", "box", &format!("s{number}")]);
        vmm(&["start", "box"]);
    }
    let sum = vm.exec(&["sha256sum", "/root/file"]).succeeded().stdout();
    vm.stop().succeeded();
    let said = vmm(&["flatten", "box"]);
    assert!(
        said.contains("4 layers became one, no space was given back: 3 of them are still needed"),
        "{said}"
    );
    for number in 0..3 {
        vmm(&["snapshot", "rm", "box", &format!("s{number}")]);
    }
    assert_eq!(layers(), few, "the image's layers, and the one above them");
    assert_eq!(vmm(&["flatten", "box"]), "there is nothing to flatten: no space was given back\n");
    vmm(&["start", "box"]);
    assert_eq!(vm.exec(&["sha256sum", "/root/file"]).succeeded().stdout(), sum);
    vm.stop().succeeded();
    let space = json(&vmm(&["flatten", "--all", "--json", "box"]));
    let before = layers_of_alpine(&home) + 1;
    let expected = [before, 1, before - 1];
    assert_eq!([&space["layers_before"], &space["layers_after"], &space["kept"]], expected, "{space}");
    vmm(&["start", "box"]);
    assert_eq!(vm.exec(&["sha256sum", "/root/file"]).succeeded().stdout(), sum);
    vmm(&["rm", "--force", "box"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_disk_of_the_users_comes_and_goes() {
    let home = TestHome::new();
    let vmm = |arguments: &[&str]| home.vmm(arguments).run().succeeded().stdout();
    let file = |name: &str| home.path().join(name).to_str().expect("a name").to_owned();
    let [first, second] = ["first.qcow2", "second.raw"].map(file);
    vmm(&["disk", "create", &first, "64M"]);
    vmm(&["disk", "create", &second, "32M"]);
    let vm = home.machine("box", &["--disk", &first]);
    home.vmm(["disk", "detach", "box", &first])
        .run()
        .refused_saying(&["the VM box is running: stop it first"]);
    vm.stop().succeeded();
    let command = format!("vmm disk detach box {first}");
    home.vmm(["disk", "rm", &first]).run().refused_saying(&["is a disk of the VM box", &command]);
    home.vmm(["clone", "box", "copy"]).run().refused_saying(&[&command]);
    // Twice the same is once.
    let read_only = format!("{second},ro");
    vmm(&["start", "--disk", &read_only, "box"]);
    vm.stop().succeeded();
    vmm(&["start", "--disk", &read_only, "box"]);
    vm.shell(
        "cat /sys/block/vdb/size /sys/block/vdc/size /sys/block/vdc/ro | xargs | grep -qx '131072 65536 1'",
    )
    .succeeded();
    vm.stop().succeeded();
    home.vmm(["start", "--disk", &second, "box"]).run().refused_saying(&["has the disk", "vmm disk detach"]);
    vmm(&["disk", "detach", "box", &first]);
    home.vmm(["disk", "detach", "box", &first]).run().refused_saying(&["box has no disk", &second]);
    vmm(&["disk", "rm", &first]);
    // A file that is gone is taken away, too.
    fs::remove_file(&second).expect("a file");
    vmm(&["disk", "detach", "box", &second]);
    vmm(&["start", "box"]);
    vm.shell("! test -e /dev/vdb").succeeded();
}

#[test]
fn a_disk_file_is_what_it_is_said_to_be() {
    let home = TestHome::new();
    let vmm = |arguments: &[&str]| home.vmm(arguments).run().succeeded().stdout();
    let file = home.path().join("disk");
    let named = file.to_str().expect("a name");
    home.vmm(["disk", "create", named, "8M"]).run().refused_saying(&["--format"]);
    vmm(&["disk", "create", "--format", "raw", named, "8M"]);
    for command in [&["info"][..], &["check"], &["compact"], &["rm"]] {
        let arguments = ["disk"].iter().chain(command).copied().chain([named]);
        home.vmm(arguments).run().refused_saying(&["which is raw", "as in --format raw"]);
    }
    home.vmm(["disk", "resize", named, "9M"]).run().refused_saying(&["as in --format raw"]);
    vmm(&["disk", "resize", "--format", "raw", named, "9M"]);
    assert_eq!(json(&vmm(&["disk", "info", "--format", "raw", "--json", named]))["size"], 9 << 20);
    fs::write(&file, vec![0; 4 << 20]).expect("a file");
    let compacted = json(&vmm(&["disk", "compact", "--format", "raw", "--json", named]));
    assert!(compacted["before"].as_u64() >= Some(4 << 20) && compacted["after"] == 0, "{compacted}");
    home.vmm(["disk", "info", "--format", "qcow2", named]).run().refused_saying(&["magic number"]);
    vmm(&["disk", "rm", "--format", "raw", named]);
    assert!(!file.exists());
}

/// What a program says with `--json`.
fn json_of(home: &TestHome, arguments: &[&str]) -> Value {
    json(&home.vmm(arguments).run().succeeded().stdout())
}

/// How many layers the managed Alpine has.
fn layers_of_alpine(home: &TestHome) -> usize {
    let details = json_of(home, &["images", "inspect", "alpine", "--json"]);
    details["layers"].as_array().map_or(0, Vec::len)
}

/// What `vmm exec` of a line for the guest's shell says.
fn say(home: &TestHome, vm: &str, line: &str) -> String {
    home.vmm(["exec", vm, "--", "sh", "-c", line]).run().succeeded().stdout()
}

/// Has a guest write without end: lines to a file, whose copies it renames.
fn write_without_end(vm: &TestVm<'_>) {
    let lines = "i=0; while :; do i=$((i+1)); echo $i >> log; cp log copy; mv copy done; done";
    vm.shell(&format!("cd /root && setsid sh -c '{lines}' </dev/null >/dev/null 2>&1 & sleep 1")).succeeded();
}

/// Whether the kernel had to mend the root when it mounted it.
fn was_mended(home: &TestHome, vm: &str) -> bool {
    let said = say(home, vm, "dmesg | grep EXT4-fs || true");
    assert!(said.contains("mounted filesystem"), "{said}");
    said.contains("recovery") || said.contains("unchecked") || said.contains("orphan")
}

fn last_line(home: &TestHome, vm: &str) -> u64 {
    say(home, vm, "tail -n 2 /root/log | head -n 1").trim().parse().expect("a number")
}

#[test]
fn a_vm_that_runs_is_cloned_while_it_writes() {
    let home = TestHome::new();
    let source = home.machine("source", &[]);
    write_without_end(&source);
    let cloned = json_of(&home, &["clone", "source", "first", "--json"]);
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
        say(&home, name, &format!("echo {name} > /root/own; sync"));
    }
    assert_eq!(say(&home, "first", "cat /root/own"), "first\n");
    home.vmm(["rm", "--force", "first", "second"]).run().succeeded();
    home.vmm(["start", "source"]).run().succeeded();
    assert!(!was_mended(&home, "source"));
    assert!(last_line(&home, "source") >= before);
    assert_eq!(say(&home, "source", "cat /root/own 2>/dev/null || echo none"), "none\n");
    home.vmm(["rm", "--force", "source", "third"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn a_snapshot_of_a_vm_that_runs_brings_back_that_moment() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    // Nobody syncs: what is in the guest's memory is written back.
    vm.shell("echo before > /root/file").succeeded();
    let taken = json_of(&home, &["snapshot", "create", "box", "good", "--json"]);
    assert!(taken["name"] == "good" && taken["frozen_ms"].as_f64().is_some(), "{taken}");
    vm.shell("echo after > /root/file; sync").succeeded();
    home.vmm(["snapshot", "create", "box", "good"])
        .run()
        .refused_saying(&["there is a snapshot good already"]);
    home.vmm(["snapshot", "restore", "box", "good"])
        .run()
        .refused_saying(&["the VM box is running: stop it first"]);
    // A VM that loses its plug keeps what it synced, in whichever layer that is.
    home.vmm(["kill", "box"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(say(&home, "box", "cat /root/file"), "after\n");
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["snapshot", "restore", "box", "good"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(say(&home, "box", "cat /root/file"), "before\n");
    assert!(!was_mended(&home, "box"));
    home.vmm(["rm", "--force", "box"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn an_image_of_a_vm_runs_as_the_vm_did() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    vm.shell("echo one > /root/file").succeeded();
    // While it runs, and again when it is stopped.
    let committed = json_of(&home, &["commit", "box", "tools:1.0", "--json"]);
    assert!(committed["frozen_ms"].as_f64().is_some(), "{committed}");
    let first = committed["image"].as_str().expect("a name").to_owned();
    assert!(first.starts_with("tools:1.0.0-"), "{first}");
    vm.shell("echo two > /root/file").succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["commit", "box", "tools"]).run().refused_saying(&["there is an image tools:", "--force"]);
    home.vmm(["commit", "box", "alpine"]).run().refused_saying(&["alpine is a name of the catalog"]);
    let committed = json_of(&home, &["commit", "box", "other", "--json"]);
    assert!(committed["frozen_ms"].is_null(), "{committed}");
    home.vmm(["rm", "box"]).run().succeeded();
    let read = |image: &str| home.vmm(["run", image, "--", "cat", "/root/file"]).run().succeeded().stdout();
    assert_eq!([read("tools"), read("other")], ["one\n", "two\n"]);

    // It is an image like any other, of more than one layer.
    let images = json_of(&home, &["images", "list", "--json"]);
    let named =
        |name| images.as_array().is_some_and(|images| images.iter().any(|image| image["name"] == name));
    assert!(named("tools") && named("other"), "{images}");
    let details = json_of(&home, &["images", "inspect", "other", "--json"]);
    let expected = layers_of_alpine(&home) + 2;
    assert!(details["layers"].as_array().is_some_and(|layers| layers.len() == expected), "{details}");
    home.vmm(["images", "verify", "tools", "other"]).run().succeeded();
    home.vmm(["images", "prune"]).run().succeeded();
    home.machine_of("user", "other", &[]).stop().succeeded();
    home.vmm(["images", "rm", "other"]).run().refused_saying(&["is used by user"]);
    let again = json_of(&home, &["commit", "user", "other", "--force", "--json"]);
    assert_eq!(again["replaced"], serde_json::json!([]), "a VM boots from the one before");
    home.vmm(["rm", "user"]).run().succeeded();
    let again = again["image"].as_str().expect("a name").to_owned();
    home.vmm(["images", "rm", &first, &again]).run().succeeded();
    assert_eq!(read("other"), "two\n");
    home.vmm(["images", "rm", "other"]).run().succeeded();
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
