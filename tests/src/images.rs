//! Images are pulled once per machine and shared by the homes of all tests.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files up to this size are copied: a record may be written again in place, the data of an image never is.
const COPIED: u64 = 1 << 20;

/// The home that images are pulled into; `cargo verify` says where it is.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("VMM_TEST_IMAGES").map_or_else(|| target().join("test-images"), PathBuf::from)
}

/// Cargo's folder. Homes of tests lie there too: on the same file system, files can be shared.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its program");
    // It lies in `<target>/<profile>/deps`.
    test.ancestors().nth(3).expect("a test lies in cargo's folder").to_path_buf()
}

/// A file of this name that is made once per machine and serves all tests.
pub fn cached(name: &str) -> PathBuf {
    let folder = target().join("test-cache");
    fs::create_dir_all(&folder).expect("a folder for what is made once");
    folder.join(name)
}

/// The `vmm` under test.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("VMM_BIN").map_or_else(|| target().join("release/vmm"), PathBuf::from);
    assert!(path.is_file(), "there is no {}: run `cargo build --release -p vmm-cli`", path.display());
    path
}

/// Brings the images into a home: the same files (as links), or copies that the test may damage.
pub(crate) fn bring_into(home: &Path, as_copies: bool) {
    let cache = cache();
    // It does nothing when the image is there, and of many at once only one does it.
    let pull = Command::new(binary())
        .args(["pull", "--quiet", "alpine"])
        .env("VMM_HOME", &cache)
        .output()
        .expect("vmm can be started");
    assert!(pull.status.success(), "vmm pull: {}", String::from_utf8_lossy(&pull.stderr));
    for folder in ["images", "layers"] {
        share(&cache.join(folder), &home.join(folder), as_copies);
    }
    bring_answers_of_qemu(&cache.join("cache"), &home.join("cache"));
    if let Some(kernels) = kernels() {
        share(&kernels.join("kernels"), &home.join("kernels"), as_copies);
        close(&home.join("kernels"));
    }
}

/// Brings what this machine's QEMU said that it can do: it is asked by whoever first runs a machine in a home, which the pull
/// of an image does.
fn bring_answers_of_qemu(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    make_like(from, to);
    for entry in entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(b"qemu-")) {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy in the test's home");
    }
}

/// Makes folders their owner's alone, as those of a store are: on the laboratory's disk they are not.
fn close(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("its mode");
    for entry in fs::read_dir(folder).expect("a folder of ours").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            close(&entry.path());
        }
    }
}

/// A home with kernels, of which one is chosen for all: the machines of every test boot that one.
pub fn kernels() -> Option<PathBuf> {
    let home = std::env::var_os("VMM_TEST_KERNELS").map(PathBuf::from);
    assert!(home.as_ref().is_none_or(|home| home.is_absolute()), "VMM_TEST_KERNELS must be absolute");
    home
}

/// Makes a folder with the mode of another.
fn make_like(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder in the test's home");
    fs::set_permissions(to, fs::metadata(from).expect("the cache is there").permissions()).expect("its mode");
}

fn share(from: &Path, to: &Path, as_copies: bool) {
    make_like(from, to);
    for entry in fs::read_dir(from).expect("the cache can be read") {
        let entry = entry.expect("the cache can be read");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&source).expect("the cache can be read");
        if metadata.is_dir() {
            share(&source, &target, as_copies);
        } else if metadata.is_symlink() {
            let link = fs::read_link(&source).expect("a link can be read");
            std::os::unix::fs::symlink(link, &target).expect("a link in the test's home");
        } else if as_copies || metadata.len() <= COPIED || fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).expect("a copy in the test's home");
        }
    }
}
