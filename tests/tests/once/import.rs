//! Somebody brings a disk that other tools made, and it boots: nothing was installed in it.
//!
//! The disks are made on the host with the tools of other people, so these tests are not for the laboratory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmm_tests::{TestHome, skip};

/// Where tools for disks are that need not be on everybody's path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first of these tools that is missing.
fn missing(tools: &[&'static str]) -> Option<&'static str> {
    let there = |tool: &str| PATH.split(':').any(|folder| Path::new(folder).join(tool).exists());
    tools.iter().copied().find(|tool| !there(tool))
}

fn command(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-ec", script]).env("PATH", PATH);
    command
}

/// Runs a script in a folder; it must succeed.
fn shell(folder: &Path, script: &str) {
    let output = command(script).current_dir(folder).output().expect("a shell");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The folder of Alpine's image in a home, and the data of its disk.
fn alpine(home: &TestHome) -> (PathBuf, PathBuf) {
    let only = |folder: PathBuf, named: &dyn Fn(&str) -> bool| {
        let entries = fs::read_dir(&folder).expect("a folder of the home");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        folder.join(names.into_iter().find(|name| named(name)).expect("what was brought"))
    };
    let image = only(home.path().join("images/alpine"), &|name| name.ends_with("x86_64"));
    // The disk as it was fetched is the layer that stands on no other.
    let is_base = |name: &str| {
        let record = fs::read_to_string(home.path().join("layers").join(name).join("layer.json"));
        record.is_ok_and(|record| record.contains("\"below\": null"))
    };
    let layer = only(home.path().join("layers"), &is_base);
    (image, layer.join("disk.qcow2"))
}

/// Lays out Alpine's root in a folder `root`, with the kernel that is in it.
fn lay_out_root(home: &TestHome, folder: &Path) {
    fs::create_dir(folder.join("root")).expect("a folder of ours");
    let (_, disk) = alpine(home);
    shell(
        folder,
        &format!(
            // Who is not root cannot give files to others, and hears so; the files are there all the same.
            "qemu-img convert -O raw '{}' whole.ext4
             debugfs -R 'rdump / root' whole.ext4 2>/dev/null
             rm whole.ext4; test -f root/boot/vmlinuz-virt",
            disk.display()
        ),
    );
}

#[test]
fn host_a_partitioned_disk_of_foreign_tools_boots() {
    if let Some(tool) = missing(&["qemu-img", "debugfs", "mke2fs", "sfdisk", "dd"]) {
        skip!("{tool} is not installed");
    }
    if cfg!(not(target_arch = "x86_64")) {
        skip!("the disk is for x86_64");
    }
    let home = TestHome::new();
    let work = tempfile::tempdir_in(home.path()).expect("a folder of ours");
    let folder = work.path();
    lay_out_root(&home, folder);
    // A boot partition first, as installers make it, and the root behind it.
    shell(
        folder,
        "mke2fs -q -t ext4 -d root root.ext4 400M
         truncate -s 480M disk.raw
         printf 'label: gpt\\nsize=32M,type=uefi\\ntype=linux\\n' | sfdisk -q disk.raw
         start=$(sfdisk -d disk.raw | sed -n 's/^disk.raw2 : start= *\\([0-9]*\\),.*/\\1/p')
         dd if=root.ext4 of=disk.raw bs=512 seek=$start conv=notrunc,sparse status=none
         qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw disk.vmdk
         qemu-img convert -O vpc disk.raw disk.vhd
         qemu-img create -q -f qcow2 -b disk.raw -F raw top.qcow2",
    );
    for (file, format) in [("disk.vmdk", "VMDK"), ("disk.vhd", "VHD"), ("top.qcow2", "qcow2")] {
        let path = folder.join(file);
        let path = path.to_str().expect("a plain path");
        let import = home.vmm(["images", "import", path, "--name", "mine:3.1", "--json"]).run().succeeded();
        let report: serde_json::Value = serde_json::from_str(&import.stdout()).expect("JSON");
        assert_eq!(report["format"], format, "{report}");
        assert_eq!((&report["partition_table"], &report["root"]), (&"GPT".into(), &"/dev/vda2".into()));
        assert!(report["version"].as_str().is_some_and(|version| version.starts_with("3.1.0-")), "{report}");
    }
    // The disk is not needed any more.
    fs::remove_dir_all(folder).expect("a folder of ours");
    let vm = home.machine_of("box", "mine", &[]);
    assert!(vm.exec(&["cat", "/etc/os-release"]).succeeded().stdout().contains("ID=alpine"));
    let mounts = vm.exec(&["cat", "/proc/mounts"]).succeeded().stdout();
    assert!(mounts.lines().any(|line| line.starts_with("/dev/vda2 / ext4 rw")), "{mounts}");
    vm.exec(&["sh", "-c", "echo kept >/kept && sync"]).succeeded();
    vm.stop().succeeded();
}

#[test]
fn host_a_disk_without_a_kernel_says_what_to_do_and_boots_with_one() {
    if let Some(tool) = missing(&["qemu-img", "debugfs", "e2fsck", "resize2fs", "xz"]) {
        skip!("{tool} is not installed");
    }
    if cfg!(not(target_arch = "x86_64")) {
        skip!("the disk is for x86_64");
    }
    let home = TestHome::new();
    let work = tempfile::tempdir_in(home.path()).expect("a folder of ours");
    let (image, disk) = alpine(&home);
    shell(
        work.path(),
        &format!(
            "qemu-img convert -O raw '{}' plain.img
             debugfs -w -R 'rm /boot/vmlinuz-virt' plain.img 2>/dev/null
             e2fsck -fy plain.img || test $? = 1 # it mended something
             resize2fs plain.img 300M
             truncate -s 300M plain.img
             xz -0 plain.img",
            disk.display()
        ),
    );
    let path = work.path().join("plain.img.xz");
    let path = path.to_str().expect("a plain path");
    home.vmm(["--quiet", "images", "import", path]).run().refused_saying(&["--kernel", "--modules"]);
    let kernel = image.join("vmlinux");
    let kernel = kernel.to_str().expect("a plain path");
    let import = home.vmm(["images", "import", path, "--kernel", kernel]).run().succeeded().stdout();
    assert!(import.contains("raw in xz") && import.contains("/dev/vda"), "{import}");
    let run = home.vmm(["run", "plain", "--", "cat", "/etc/os-release"]).run().succeeded();
    assert!(run.stdout().contains("ID=alpine"), "{}", run.stdout());
    assert!(home.vmm(["images"]).run().succeeded().stdout().contains("plain"));
}

#[test]
fn host_debian_boots_though_nothing_was_installed_in_it() {
    if let Some(tool) = missing(&["mmdebstrap", "mke2fs", "tar"]) {
        skip!("{tool} is not installed");
    }
    if cfg!(not(target_arch = "x86_64")) {
        skip!("the disk is for x86_64");
    }
    let home = TestHome::empty();
    let Some(archive) = debian() else { skip!("mmdebstrap cannot fetch Debian here") };
    let work = tempfile::tempdir_in(home.path()).expect("a folder of ours");
    shell(
        work.path(),
        &format!(
            "mkdir root; tar -C root --exclude='./dev/*' -xf '{}'; mke2fs -q -t ext4 -d root debian.img 900M
             rm -rf root",
            archive.display()
        ),
    );
    let path = work.path().join("debian.img");
    let path = path.to_str().expect("a plain path");
    let import = home.vmm(["images", "import", path]).run().succeeded().stdout();
    assert!(import.contains("Debian GNU/Linux 13") && import.contains("-cloud-amd64"), "{import}");
    fs::remove_file(path).expect("a file of ours");
    // Debian's kernels do not have their configuration in them.
    let checked = home.vmm(["kernel", "check", "debian"]).run().ended_with(1).stdout();
    let missing: Vec<_> = checked.lines().filter(|line| line.starts_with("missing ")).collect();
    assert!(missing.len() == 1 && missing[0].contains("CONFIG_IKCONFIG"), "{checked}");
    let vm = home.machine_of("box", "debian", &[]);
    assert!(vm.exec(&["cat", "/etc/os-release"]).succeeded().stdout().contains("ID=debian"));
    assert!(vm.exec(&["uname", "-r"]).succeeded().stdout().contains("-cloud-amd64"));
    vm.exec(&["apt-get", "--version"]).succeeded();
    vm.exec(&["sh", "-c", "echo kept >/kept && sync && test $(cat /kept) = kept"]).succeeded();
    vm.stop().succeeded();
}

/// Debian's root with its own kernel as an archive, which is made once.
fn debian() -> Option<PathBuf> {
    let cache = vmm_tests::cached("debian-13-cloud.tar");
    if cache.is_file() {
        return Some(cache);
    }
    let partial = cache.with_extension(format!("{}.tar", std::process::id()));
    let script = format!(
        "mmdebstrap -q --variant=minbase --include=linux-image-cloud-amd64 trixie '{}'",
        partial.display()
    );
    let output = command(&script).output().expect("a shell");
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stderr));
        let _ = fs::remove_file(partial);
        return None;
    }
    fs::rename(partial, &cache).expect("a file of ours");
    Some(cache)
}
