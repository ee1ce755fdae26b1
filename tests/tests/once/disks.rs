//! Disks: their size, and what is done to those of VMs that do not run: snapshots, clones, images, fewer layers.

use std::fs;

use vmm_tests::{TestHome, TestVm};

/// What `df` says of the root, in MiB.
fn root_size(vm: &TestVm<'_>) -> u64 {
    let said = vm.exec(&["df", "-m", "/"]).succeeded().stdout();
    let size = said.lines().last().and_then(|line| line.split_whitespace().nth(1));
    size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

/// How many layers the managed Alpine has.
fn layers_of_alpine(home: &TestHome) -> usize {
    let details = home.json(&["images", "inspect", "alpine", "--json"]);
    details["layers"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_disk_is_as_large_as_asked_for_and_grows_later() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--disk-size", "3G"]);
    assert!(root_size(&vm) > 2800);
    vm.shell("echo kept > /srv/file").succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "5G", "box"]).run().succeeded();
    assert!(root_size(&vm) > 4700);
    let layers = || home.path().join("layers").read_dir().expect("a folder").count();
    let before = layers();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "5G", "box"]).run().succeeded();
    assert_eq!(layers(), before, "a disk that is as large already gets no layer");
    assert_eq!(vm.exec(&["cat", "/srv/file"]).succeeded().stdout(), "kept\n");
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["start", "--disk-size", "1G", "box"])
        .run()
        .refused_saying(&["it can become larger and not smaller"]);
}

#[test]
fn a_clone_goes_on_from_the_disk_and_then_each_is_its_own() {
    let home = TestHome::new();
    let first = home.machine("first", &[]);
    first.shell("echo shared > /srv/file").succeeded();
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
        let script = format!("cat /srv/file; echo {vm} > /srv/file; sync");
        home.vmm(["exec", vm, "--", "sh", "-c", &script]).run().succeeded().stdout()
    };
    assert_eq!([write("first"), write("second")], ["shared\n", "shared\n"]);
    assert_eq!(home.vmm(["exec", "second", "--", "hostname"]).run().succeeded().stdout(), "second\n");
    let read = |vm: &str| home.vmm(["exec", vm, "--", "cat", "/srv/file"]).run().succeeded().stdout();
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
        vm.shell(&format!("echo {text} > /srv/file")).succeeded();
    };
    let read = || vm.exec(&["cat", "/srv/file"]).succeeded().stdout();
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
fn a_flattened_disk_has_one_layer_above_its_image() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    let vmm = |arguments: &[&str]| home.vmm(arguments).run().succeeded().stdout();
    let layers = || home.path().join("layers").read_dir().expect("a folder").count();
    let few = layers();
    for number in 0..3 {
        vm.shell(&format!(
            "dd if=/dev/urandom of=/srv/file bs=1M count=2 2>/dev/null; echo {number} > /srv/number"
        ))
        .succeeded();
        vmm(&["snapshot", "create", "box", &format!("s{number}")]);
    }
    let sum = vm.exec(&["sha256sum", "/srv/file"]).succeeded().stdout();
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
    assert_eq!(vm.exec(&["sha256sum", "/srv/file"]).succeeded().stdout(), sum);
    vm.stop().succeeded();
    let space = home.json(&["flatten", "--all", "--json", "box"]);
    let before = layers_of_alpine(&home) + 1;
    let expected = [before, 1, before - 1];
    assert_eq!([&space["layers_before"], &space["layers_after"], &space["kept"]], expected, "{space}");
    vmm(&["start", "box"]);
    assert_eq!(vm.exec(&["sha256sum", "/srv/file"]).succeeded().stdout(), sum);
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
    assert_eq!(home.json(&["disk", "info", "--format", "raw", "--json", named])["size"], 9 << 20);
    fs::write(&file, vec![0; 4 << 20]).expect("a file");
    let compacted = home.json(&["disk", "compact", "--format", "raw", "--json", named]);
    assert!(compacted["before"].as_u64() >= Some(4 << 20) && compacted["after"] == 0, "{compacted}");
    home.vmm(["disk", "info", "--format", "qcow2", named]).run().refused_saying(&["magic number"]);
    vmm(&["disk", "rm", "--format", "raw", named]);
    assert!(!file.exists());
}

#[test]
fn an_image_of_a_vm_runs_as_the_vm_did() {
    let home = TestHome::new();
    let vm = home.machine("box", &[]);
    vm.shell("echo one > /srv/file").succeeded();
    // While it runs, and again when it is stopped.
    let committed = home.json(&["commit", "box", "tools:1.0", "--json"]);
    assert!(committed["frozen_ms"].as_f64().is_some(), "{committed}");
    let first = committed["image"].as_str().expect("a name").to_owned();
    assert!(first.starts_with("tools:1.0.0-"), "{first}");
    vm.shell("echo two > /srv/file").succeeded();
    home.vmm(["stop", "box"]).run().succeeded();
    home.vmm(["commit", "box", "tools"]).run().refused_saying(&["there is an image tools:", "--force"]);
    home.vmm(["commit", "box", "alpine"]).run().refused_saying(&["alpine is a name of the catalog"]);
    let committed = home.json(&["commit", "box", "other", "--json"]);
    assert!(committed["frozen_ms"].is_null(), "{committed}");
    home.vmm(["rm", "box"]).run().succeeded();
    let read = |image: &str| home.vmm(["run", image, "--", "cat", "/srv/file"]).run().succeeded().stdout();
    assert_eq!([read("tools"), read("other")], ["one\n", "two\n"]);

    // It is an image like any other, of more than one layer.
    let images = home.json(&["images", "list", "--json"]);
    let named =
        |name| images.as_array().is_some_and(|images| images.iter().any(|image| image["name"] == name));
    assert!(named("tools") && named("other"), "{images}");
    let details = home.json(&["images", "inspect", "other", "--json"]);
    let expected = layers_of_alpine(&home) + 2;
    assert!(details["layers"].as_array().is_some_and(|layers| layers.len() == expected), "{details}");
    home.vmm(["images", "verify", "tools", "other"]).run().succeeded();
    home.vmm(["images", "prune"]).run().succeeded();
    home.machine_of("user", "other", &[]).stop().succeeded();
    home.vmm(["images", "rm", "other"]).run().refused_saying(&["is used by user"]);
    let again = home.json(&["commit", "user", "other", "--force", "--json"]);
    assert_eq!(again["replaced"], serde_json::json!([]), "a VM boots from the one before");
    home.vmm(["rm", "user"]).run().succeeded();
    let again = again["image"].as_str().expect("a name").to_owned();
    home.vmm(["images", "rm", &first, &again]).run().succeeded();
    assert_eq!(read("other"), "two\n");
    home.vmm(["images", "rm", "other"]).run().succeeded();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
