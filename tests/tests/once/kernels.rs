//! `vmm kernel`, and VMs that boot something else than their image's kernel.

use std::fs;

use vmm_tests::{TestHome, skip};

#[test]
fn the_kernel_of_an_image_is_checked() {
    let home = TestHome::new();
    let checked = home.json(&["kernel", "check", "--json", "alpine"]);
    assert_eq!(checked["complete"], true, "{checked}");
    assert!(checked["modules"].as_array().is_some_and(|modules| !modules.is_empty()), "{checked}");
    let said = home.vmm(["kernel", "check", "alpine", "--for", "network,nested"]).run().succeeded().stdout();
    assert!(said.contains("has all"), "{said}");
}

#[test]
fn what_a_configuration_lacks_is_named_and_is_the_status() {
    let home = TestHome::empty();
    let config = home.path().join("config");
    fs::write(&config, "CONFIG_X86_64=y\nCONFIG_VIRTIO_BLK=y\n").unwrap();
    let config = config.display().to_string();
    let said = home.vmm(["kernel", "check", &config]).run().ended_with(1).stdout();
    assert!(said.contains("missing CONFIG_VIRTIO_VSOCKETS: no VM starts: "), "{said}");
    assert!(!said.contains("CONFIG_VIRTIO_BLK"), "{said}");
}

#[test]
fn bad_input_is_told_in_a_line() {
    let home = TestHome::empty();
    let tree = home.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("Makefile"), "VERSION = 5\nPATCHLEVEL = 4\nSUBLEVEL = 1\n").unwrap();
    let tree = tree.display().to_string();
    // All tools that are missing, and the packages that have them.
    let bare = home.vmm(["kernel", "build", &tree]).env("PATH", "/nowhere").run();
    bare.refused_saying(&[
        "without make, gcc, ld, flex, bison, bc",
        "install make gcc binutils flex bison bc mawk",
    ]);
    let refused = home.vmm(["kernel", "build", &tree]).run().ended_with(125).stderr();
    // Where tools are missing, that is what is said.
    let expected =
        refused.contains("is Linux 5.4.1: only 6.12 is known here") || refused.contains("install ");
    assert!(expected && refused.trim_end().lines().count() == 1, "{refused}");
    home.vmm(["kernel", "use", "none"]).run().refused_saying(&["there is no kernel none"]);
    home.vmm(["kernel", "rm", "none"]).run().refused_saying(&["there is no kernel none"]);
    let taken = home.vmm(["kernel", "build", "--fragments", "network,nested", "/nowhere", "--name", "image"]);
    let taken = taken.run().ended_with(125).stderr();
    assert!(taken.contains("invalid value 'image' for '--name <NAME>'"), "{taken}");
    assert_eq!(home.json(&["kernel", "list", "--json"]), serde_json::json!([]));
}

#[test]
fn ours_machines_boot_a_kernel_of_ours() {
    if vmm_tests::kernels().is_none() {
        skip!("VMM_TEST_KERNELS names no home with a kernel: `cargo verify --soak kernel` makes one");
    }
    let home = TestHome::new();
    let kernels = home.json(&["kernel", "list", "--json"]);
    let name = kernels[0]["name"].as_str().expect("a kernel is there");
    let kernel = home.path().join("kernels").join(name).join("vmlinux").display().to_string();
    home.vmm(["kernel", "check", &kernel, "--for", "network,shared-folders,nested"]).run().succeeded();
    let vm = home.machine("box", &["--kernel", &kernel, "--cpus", "2"]);
    let said =
        vm.shell("uname -r; nproc; ls /sys/module | wc -l; cat /proc/modules | wc -l; df -T / | tail -n1");
    let said = said.succeeded().stdout();
    assert!(said.contains("-vmm\n2\n") && said.contains("\n0\n") && said.contains("ext4"), "{said}");
    vm.shell("echo kept > /srv/file; sync").succeeded();
    vm.stop().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(vm.shell("cat /srv/file").stdout(), "kept\n");
    vm.stop().succeeded();
    let refused = home.vmm(["run", "--read-only", "--kernel", &kernel, "alpine", "--", "mount"]).run();
    assert!(refused.succeeded().stdout().contains(" on / type overlay "));
}
