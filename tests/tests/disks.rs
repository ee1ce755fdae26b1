//! Disks: their size, their snapshots, their clones, and disks of the user's.

use std::fs;

use vmm_tests::{TestHome, TestVm};

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
    home.vmm(["clone", "first", "second"]).run().refused_saying(&["the VM first is running: stop it first"]);
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
