//! What is missing, broken, full or too slow: one line with what to do, and nothing half-written.

use std::fs;
use std::path::{Path, PathBuf};

use vmm_tests::{TestHome, program};

#[test]
fn without_pip_it_says_what_fetches_images() {
    let home = TestHome::empty();
    let path = home.path_with(&["sh"]);
    // Nor a way to the package index: nothing listens on the discard port of this machine.
    let pull = home
        .vmm(["--quiet", "pull", "alpine"])
        .env("PATH", &path)
        .env("https_proxy", "http://127.0.0.1:9")
        .env("no_proxy", "");
    pull.run().refused_saying(&["pip"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn without_a_network_it_says_what_is_missing() {
    let home = TestHome::empty();
    let path = home.path_with(&["sh"]);
    // As pip ends where nothing answers.
    let script =
        "case \"$*\" in *--version*) echo 'pip 23.0';; *) echo 'Could not find a version' >&2; exit 1;; esac";
    for name in ["python3", "pip", "pip3"] {
        program(&path.join(name), script);
    }
    let refusal = home.vmm(["pull", "alpine"]).env("PATH", &path).run().ended_with(125);
    assert!(refusal.stderr().contains("alpine"), "{}", refusal.stderr());
    assert_eq!(home.vmm(["images", "--json"]).run().succeeded().stdout().trim(), "[]");
}

#[test]
fn a_flipped_byte_in_any_file_of_an_image_is_found_and_named() {
    let home = TestHome::with_own_images();
    let mut files = Vec::new();
    files_beneath(&home.path().join("images"), &mut files);
    // Initial file systems of other agents may lie there, which nobody reads: only today's is made again.
    let is_initramfs = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "cpio");
    for file in files.iter().filter(|file| is_initramfs(file)) {
        fs::remove_file(file).unwrap();
    }
    home.vmm(["run", "alpine", "--", "true"]).run().succeeded();
    files.clear();
    files_beneath(&home.path().join("images"), &mut files);
    files_beneath(&home.path().join("layers"), &mut files);
    // What is small is read as a record, and checked by other tests. The log of pulls is for people.
    files.retain(|file| fs::metadata(file).unwrap().len() > 64 << 10 && !file.ends_with("pull.log"));
    assert!(files.len() >= 3, "a kernel, an initramfs or modules, a disk: {files:?}");
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let run = home.vmm(["run", "alpine", "--", "true"]).run();
        let name = file.file_name().unwrap().to_str().unwrap();
        if run.status() == 0 {
            // What is made from other files may be made again.
            assert!(
                fs::read(&file).map_or(true, |now| now != bytes),
                "{name} is damaged, and nobody noticed"
            );
        } else {
            run.refused_saying(&[name, "vmm pull"]);
        }
        bytes[middle] ^= 1;
        fs::write(&file, &bytes).unwrap();
    }
    home.vmm(["run", "alpine", "--", "true"]).run().succeeded();
}

fn files_beneath(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            files_beneath(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

#[test]
fn a_home_that_cannot_be_written_is_refused() {
    let home = TestHome::empty();
    let file = home.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let inside = file.join("home");
    home.vmm(["ps"]).env("VMM_HOME", &inside).run().refused_saying(&["file", "VMM_HOME"]);
    // Nobody, not even root, writes there.
    home.vmm(["run", "alpine", "--", "true"])
        .env("VMM_HOME", "/proc/vmm")
        .run()
        .refused_saying(&["/proc/vmm", "VMM_HOME"]);
}

#[test]
fn a_home_that_is_full_is_refused_and_nothing_stays_half_written() {
    let Some(home) = TestHome::on_a_disk_of(8 << 20) else {
        vmm_tests::skip!("only root can mount a small disk");
    };
    let refusal = home.vmm(["pull", "alpine"]).run().ended_with(125);
    assert!(refusal.stderr().contains("space"), "{}", refusal.stderr());
    assert_eq!(home.vmm(["images", "--json"]).run().succeeded().stdout().trim(), "[]");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
