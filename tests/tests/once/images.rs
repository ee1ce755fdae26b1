//! Images as their user sees them: what is here, other names, copies to take along, making room, no network.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use vmm_tests::{TestHome, skip};

/// A proxy that refuses every connection: nothing listens on the discard port of this machine.
const NO_WAY: &str = "http://127.0.0.1:9";

/// The folders of the images of a name.
fn folders_of(home: &TestHome, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path().join("images").join(name)).unwrap();
    let folders = entries.map(|entry| entry.unwrap().path());
    folders.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
}

#[test]
fn a_user_sees_what_is_here_and_all_that_is_known_of_it() {
    let home = TestHome::new();
    let list = home.json(&["images", "list", "--json"]);
    assert_eq!(list, home.json(&["images", "--json"]));
    let [image] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
    for (size, least) in [("bytes", 90 << 20), ("real_bytes", 1 << 20), ("disk_bytes", 200 << 20)] {
        assert!(image[size].as_u64().unwrap() > least, "{size}: {image}");
    }
    let details = home.json(&["images", "inspect", "alpine", "--json"]);
    assert_eq!(details["version"], image["version"]);
    assert_eq!(details["used_by"], Value::Array(Vec::new()));
    // The disk that was fetched, and what its script made of it.
    assert_eq!(details["layers"].as_array().unwrap().len(), 2);
    assert_eq!(details["origin"].as_array().unwrap().len(), 3);
    let text = home.vmm(["images", "inspect", "alpine"]).run().succeeded().stdout();
    assert!(text.contains("used by       no VM\n") && text.contains("made from     "), "{text}");
    home.vmm(["images", "inspect", "debian"]).run().refused_saying(&["no image debian"]);
}

#[test]
fn a_pull_says_in_lines_that_nothing_had_to_be_fetched() {
    let home = TestHome::new();
    for command in [&["pull", "alpine"][..], &["images", "pull", "alpine"]] {
        let pull = home.vmm(command).run().succeeded();
        assert_eq!(pull.stderr(), "→ alpine 3.23: cache hit\n");
        assert!(pull.stdout().ends_with(": here already\n"), "{}", pull.stdout());
    }
    let download = home.vmm(["images", "download", "alpine"]).run().succeeded();
    assert!(download.stdout().ends_with(": here already\n"), "{}", download.stdout());
    let log = fs::read_to_string(home.path().join("images/pull.log")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["outcome"], &last["bytes"]), (&"cached".into(), &0.into()), "{last}");
}

#[test]
fn an_image_that_a_vm_uses_is_not_removed_nor_is_what_the_vm_stands_on() {
    let home = TestHome::new();
    let vm = home.machine("box", &["--memory", "256M"]);
    vm.exec(&["sh", "-c", "echo kept >/srv/file; sync"]).succeeded();
    let remove = || home.vmm(["images", "rm", "alpine"]).run();
    remove().refused_saying(&["is used by box", "vmm rm box"]);
    home.vmm(["stop", "box"]).run().succeeded();
    remove().refused_saying(&["is used by box"]);
    assert_eq!(home.json(&["images", "inspect", "alpine", "--json"])["used_by"], Value::from(vec!["box"]));
    // Making room takes nothing from it.
    assert_eq!(home.json(&["images", "prune", "--json"])["removed"], Value::Array(Vec::new()));
    home.vmm(["start", "box"]).run().succeeded();
    assert_eq!(vm.exec(&["cat", "/srv/file"]).succeeded().stdout(), "kept\n");
    home.vmm(["rm", "-f", "box"]).run().succeeded();
    // When nothing uses it any more, it goes, with its layer.
    let removed = remove().succeeded().stdout();
    assert!(
        removed.contains("image ") && removed.contains("layer ") && removed.contains("\nfreed "),
        "{removed}"
    );
    assert_eq!(home.json(&["images", "--json"]), Value::Array(Vec::new()));
    let layers = fs::read_dir(home.path().join("layers")).unwrap();
    assert!(layers.flatten().all(|entry| entry.file_name() == ".lock"));
}

#[test]
fn a_vm_goes_on_with_another_patch_of_its_image_and_not_with_another_release() {
    let home = TestHome::with_own_images();
    let tag = |name: &str| drop(home.vmm(["images", "tag", "alpine", name]).run().succeeded());
    tag("mine:1.0");
    let [first] = folders_of(&home, "mine").try_into().unwrap();
    home.vmm(["run", "--name", "box", "mine", "--", "sh", "-c", "echo kept >/srv/file"]).run().succeeded();
    let start = || home.vmm(["start", "box"]).run();
    // Given that its image is gone, by whoever's hand, and another patch is there.
    fs::remove_dir_all(first).unwrap();
    start().refused_saying(&["no image mine:1.0.0"]);
    tag("mine:1.0.7");
    let started = start().succeeded();
    assert!(
        started.stderr().contains("is gone: the VM boots the kernel of mine:1.0.7"),
        "{}",
        started.stderr()
    );
    let kept = home.vmm(["exec", "box", "--", "cat", "/srv/file"]).run().succeeded();
    assert_eq!(kept.stdout(), "kept\n");
    home.vmm(["stop", "box"]).run().succeeded();
    // Given another release only.
    home.vmm(["images", "rm", "mine:1.0.7"]).run().succeeded();
    tag("mine:1.1");
    start().refused_saying(&["mine:1.1.0", "is another release"]);
    home.vmm(["rm", "box"]).run().succeeded();
}

#[test]
fn a_tag_is_an_image_of_its_own_and_the_catalogs_names_are_its_own() {
    let home = TestHome::new();
    home.vmm(["images", "tag", "alpine", "alpine:9"]).run().refused_saying(&["a name of the catalog"]);
    home.vmm(["images", "tag", "alpine", "../mine"]).run().refused_saying(&["no image name"]);
    let tagged = home.vmm(["images", "tag", "alpine", "mine"]).run().succeeded().stdout();
    assert!(tagged.starts_with("mine:3.23."), "{tagged}");
    home.vmm(["images", "rm", "alpine"]).run().succeeded();
    let verified = home.vmm(["images", "verify"]).run().succeeded();
    assert!(verified.stdout().starts_with("mine:3.23.") && verified.stdout().ends_with(": good\n"));
    let run = home.vmm(["run", "mine", "--", "cat", "/etc/os-release"]).run().succeeded();
    assert!(run.stdout().contains("ID=alpine"));
}

#[test]
fn an_exported_disk_is_one_that_other_tools_read() {
    let home = TestHome::new();
    let file = home.path().join("alpine.qcow2");
    let file = file.to_str().unwrap();
    home.vmm(["images", "export", "alpine", file]).run().succeeded();
    home.vmm(["images", "export", "alpine", file]).run().refused_saying(&["is there already"]);
    let tool = |arguments: &[&str]| std::process::Command::new("qemu-img").args(arguments).output();
    let Ok(check) = tool(&["check", "-f", "qcow2", file]) else { skip!("qemu-img is not installed") };
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    // It holds what the layers hold, and stands on nothing.
    let details = home.json(&["images", "inspect", "alpine", "--json"]);
    let layer = |number: usize| details["layers"][number]["path"].as_str().unwrap();
    let top = home.path().join("top.qcow2");
    fs::copy(layer(1), &top).unwrap();
    fs::set_permissions(&top, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let top = top.to_str().unwrap();
    let upon = tool(&["rebase", "-u", "-f", "qcow2", "-b", layer(0), "-F", "qcow2", top]).unwrap();
    assert!(upon.status.success(), "{}", String::from_utf8_lossy(&upon.stderr));
    let same = tool(&["compare", "-f", "qcow2", "-F", "qcow2", file, top]).unwrap();
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stdout));
    let info = String::from_utf8(tool(&["info", file]).unwrap().stdout).unwrap();
    assert!(!info.contains("backing file"), "{info}");
}

#[test]
fn making_room_takes_what_nobody_needs_and_says_so_before() {
    let home = TestHome::new();
    let downloads = home.path().join("downloads");
    fs::create_dir(&downloads).unwrap();
    fs::write(downloads.join("0123.partial"), vec![1; 1 << 20]).unwrap();
    let dangling = home.path().join("images/other/1.0.0-20260101-0000000-arm64.partial");
    fs::create_dir_all(&dangling).unwrap();
    fs::remove_dir_all(home.path().join("images/alpine")).unwrap();
    let told = home.json(&["images", "prune", "--dry-run", "--json"]);
    assert!(dangling.exists() && downloads.join("0123.partial").exists());
    let kinds: Vec<&str> =
        told["removed"].as_array().unwrap().iter().map(|gone| gone["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["download", "remains", "layer", "layer"]);
    assert!(told["bytes"].as_u64().unwrap() > 1 << 20);
    let pruned = home.vmm(["images", "prune"]).run().succeeded().stdout();
    assert!(pruned.lines().last().unwrap().starts_with("freed "), "{pruned}");
    assert!(!dangling.exists() && !downloads.join("0123.partial").exists());
    assert_eq!(home.vmm(["images", "prune"]).run().succeeded().stdout(), "freed 0 B\n");
}

#[test]
fn verification_reads_what_changed_unseen() {
    let home = TestHome::with_own_images();
    home.vmm(["images", "verify", "alpine"]).run().succeeded();
    let layer = home.json(&["images", "inspect", "alpine", "--json"])["layers"][0]["path"].clone();
    let path = PathBuf::from(layer.as_str().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    let verified = home.vmm(["images", "verify", "--json"]).run().ended_with(125);
    let verdict: Value = serde_json::from_str(&verified.stdout()).unwrap();
    assert_eq!(verdict[0]["good"], false);
    assert!(verdict[0]["damage"].as_str().unwrap().contains("vmm pull --force alpine"), "{verdict}");
}

#[test]
fn without_a_network_it_says_what_is_missing_and_what_is_here() {
    let home = TestHome::new();
    let pull =
        |image| home.vmm(["--quiet", "pull", image]).env("all_proxy", NO_WAY).env("no_proxy", "").run();
    // What is here needs no network.
    pull("alpine").succeeded();
    let refused = pull("alpine-cloud").ended_with(125);
    assert!(refused.stderr().contains("no network (the proxy cannot be reached"), "{}", refused.stderr());
    assert!(refused.stderr().contains("cached are alpine:3.23"), "{}", refused.stderr());
    let empty = home.path().join("empty");
    let refused =
        home.vmm(["--quiet", "pull", "alpine-cloud"]).env("all_proxy", NO_WAY).env("VMM_HOME", &empty).run();
    refused.refused_saying(&["no network", "is missing here; no image is cached"]);
}
