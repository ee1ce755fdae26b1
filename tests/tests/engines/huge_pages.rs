//! `vmm run --huge-pages`: a guest's memory in huge pages of the host's.

use std::fs;

use vmm_tests::{TestHome, TestVm, engine, skip};

/// Of a monitor's memory that is to be in huge pages: how much there is, and how much is in them, in KiB.
fn huge(vm: &TestVm<'_>) -> (u64, u64) {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", vm.monitor().pid)).expect("a monitor");
    let mut sums = (0, 0);
    let (mut size, mut in_huge_pages) = (0, 0);
    for line in smaps.lines() {
        let number = || line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        match line.split(':').next() {
            Some("Size") => size = number(),
            Some("AnonHugePages") => in_huge_pages = number(),
            // The last of what is said of a mapping; "hg": its owner asked for huge pages.
            Some("VmFlags") if line.split_whitespace().any(|flag| flag == "hg") => {
                sums = (sums.0 + size, sums.1 + in_huge_pages);
            }
            _ => {}
        }
    }
    sums
}

#[test]
fn kvm_a_guest_has_its_memory_in_huge_pages_where_that_is_asked_for() {
    if engine() == "software" {
        skip!("QEMU makes the memory of its machines itself");
    }
    let mode = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if mode.is_empty() || mode.contains("[never]") {
        skip!("this host gives no huge pages");
    }
    let home = TestHome::new();
    let vm = home.machine_with_usual_memory("huge", &["--memory", "256M", "--huge-pages"]);
    assert_eq!(vm.info()["huge_pages"], true);
    let (size, in_huge_pages) = huge(&vm);
    println!("{in_huge_pages} of {size} KiB are in huge pages");
    // All of it, the kernel's place, too: no page of a file lies between.
    assert_eq!(size, 256 << 10);
    assert!(in_huge_pages >= 32 << 10, "{in_huge_pages}");
    vm.stop().succeeded();
    home.vmm(["start", "huge"]).run().succeeded();
    assert_eq!(huge(&vm).0, 256 << 10, "a new start keeps it so");
    let plain = home.machine_with_usual_memory("plain", &["--memory", "256M"]);
    let (size, _) = huge(&plain);
    assert!(size < 16 << 10, "of {size} KiB more than what it boots from is to be in huge pages");
}

#[test]
fn host_the_software_engine_refuses_huge_pages_and_says_what_to_do() {
    if engine() != "software" {
        skip!("this engine has them");
    }
    let home = TestHome::new();
    home.vmm(["run", "--huge-pages", "alpine", "--", "true"])
        .run()
        .refused_saying(&["the software engine has no huge pages to give", "make the VM without"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
