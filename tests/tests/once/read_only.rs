//! A root that is only read: the guest writes as it likes, and its disk stays as it was.

use vmm_tests::TestHome;

#[test]
fn what_is_written_over_a_read_only_root_stays_in_memory() {
    let home = TestHome::new();
    let script =
        "head -n1 /proc/mounts; cat /sys/block/vda/ro; rm -rf /etc/apk /usr/share && echo new >/etc/motd &&
                  mkdir -p /var/lib/thing && chown 1:1 /var/lib/thing && cat /etc/motd
                  dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null || echo refused";
    let vm = home.machine("box", &["--read-only"]);
    let text = vm.shell(&format!("grep ' / ' /proc/mounts | cut -d' ' -f1-3; {script}")).succeeded().stdout();
    assert!(text.starts_with("overlay / overlay\n"), "{text}");
    assert!(text.contains("\n1\nnew\nrefused\n"), "{text}");
    assert_eq!(vm.info()["root_writes"], "memory");
    vm.stop().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(
        vm.shell("test -d /etc/apk && ! grep new /etc/motd && echo as before").stdout(),
        "as before\n"
    );
    vm.stop().succeeded();
    // There is no disk of which anything could be kept.
    let refused = home.vmm(["snapshot", "create", "box", "one"]).run();
    assert!(refused.stderr().contains("stays in memory"), "{}", refused.stderr());
    let refused = home.vmm(["run", "--read-only", "--disk-size", "2G", "alpine", "--", "true"]).run();
    assert!(refused.stderr().contains("--read-only=disk"), "{}", refused.stderr());
}

#[test]
fn what_is_written_over_a_read_only_root_stays_on_a_disk_of_its_own() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--read-only=disk", "--disk-size", "3G"]);
    let text = vm.shell("cat /sys/block/vdb/ro; echo kept >/etc/motd; df -k / | tail -n1 | awk '{print $2}'");
    let text = text.succeeded().stdout();
    let (read_only, size) = text.trim().split_once('\n').expect("two lines");
    assert_eq!(read_only, "1");
    assert!(size.parse::<u64>().is_ok_and(|kib| kib > 2 << 20), "it has grown with its disk: {size}");
    vm.stop().succeeded();
    home.vmm(["snapshot", "create", "box", "one"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(vm.shell("cat /etc/motd; echo lost >/etc/motd").stdout(), "kept\n");
    vm.stop().succeeded();
    home.vmm(["snapshot", "restore", "box", "one"]).run().succeeded();
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(vm.shell("cat /etc/motd").stdout(), "kept\n");
    vm.stop().succeeded();
    home.check_disks();
}

#[test]
fn the_images_own_init_runs_over_a_read_only_root() {
    let home = TestHome::new();
    let words = [
        "run",
        "--read-only",
        "--init",
        "image",
        "alpine",
        "--",
        "sh",
        "-c",
        "cat /proc/1/comm; echo x >/etc/x",
    ];
    let run = home.vmm(words).run().succeeded();
    assert_eq!(run.stdout(), "init\n");
}
