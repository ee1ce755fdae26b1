//! What is packed comes out as it was.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, mkdirat, openat};
use vmm_archive::{Holds, PackOptions, Packer, UnpackOptions, root_name};

use crate::{listing, names, packed, packed_with, unpacked};

fn there_and_back(tree: &Path, options: PackOptions, unpack: UnpackOptions) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    unpacked(&packed_with(tree, options), &target.path().join("copy"), Holds::One, unpack).unwrap();
    assert_eq!(names(target.path()), ["copy"]);
    target
}

fn set_time(path: &Path, nanoseconds_since_1970: i64) {
    let file = File::open(path).unwrap();
    let distance = Duration::from_nanos(nanoseconds_since_1970.unsigned_abs());
    let time = if nanoseconds_since_1970 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance };
    file.set_modified(time).unwrap();
}

#[test]
fn a_path_that_is_too_long_is_named_by_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let name = "n".repeat(250);
    let mut deepest = File::open(folder.path()).unwrap();
    for _ in 0..20 {
        mkdirat(&deepest, &name, Mode::RWXU).unwrap();
        deepest = openat(&deepest, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap().into();
    }
    let error = Packer::new(io::sink(), PackOptions::default()).add(folder.path(), b"tree").unwrap_err();
    let line = error.line();
    assert!(line.ends_with("/… has a path that is too long") && line.len() < 300, "{line}");
    assert!(line.starts_with(folder.path().to_str().unwrap()), "{line}");
}

/// Does something to a file when the first of its data comes.
struct Meddler {
    deed: Option<Box<dyn FnOnce()>>,
    archive: Vec<u8>,
}

impl io::Write for Meddler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > 4096
            && let Some(deed) = self.deed.take()
        {
            deed();
        }
        self.archive.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let before = vec![b'x'; 300_000];
    let pack = |deed: fn(&fs::File)| {
        fs::write(&path, &before).unwrap();
        set_time(&path, 1_000_000_000);
        let file = fs::File::options().write(true).open(&path).unwrap();
        let meddler = Meddler { deed: Some(Box::new(move || deed(&file))), archive: Vec::new() };
        let mut packer = Packer::new(meddler, PackOptions::default());
        packer.add(&path, &root_name(&path)).map(|()| packer.finish().unwrap().0.archive)
    };
    let refusal = |deed| pack(deed).unwrap_err().to_string();
    let in_place = refusal(|file| file.write_all_at(b"y", 299_999).unwrap());
    assert!(in_place.contains("was written to while it was read"), "{in_place}");
    let cut = refusal(|file| file.set_len(200_000).unwrap());
    assert!(cut.contains("was cut while it was read"), "{cut}");

    // What was there when it was opened.
    let grown = pack(|file| file.write_all_at(b"more", 300_000).unwrap()).unwrap();
    let target = folder.path().join("copy");
    unpacked(&grown, &target, Holds::One, UnpackOptions::default()).unwrap();
    assert!(fs::read(target).unwrap() == before);
}

#[test]
fn a_tree_comes_out_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("inner/empty")).unwrap();
    fs::write(tree.join("empty file"), "").unwrap();
    fs::write(tree.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::write(tree.join("inner/big"), vec![7; 3_000_001]).unwrap();
    let odd: [&[u8]; 6] = [b"new\nline", b"quote\"'\\", b"\xff\xfe not text", b" ", b"-rf", b"a=b"];
    for name in odd {
        fs::write(tree.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let long = tree.join("x".repeat(255));
    fs::create_dir(&long).unwrap();
    fs::write(long.join("y".repeat(255)), "deep").unwrap();
    symlink("../outside/of everything", tree.join("link")).unwrap();
    symlink("z".repeat(1000), tree.join("long link")).unwrap();
    fs::hard_link(tree.join("inner/big"), tree.join("inner/twin")).unwrap();
    fs::hard_link(tree.join("script"), long.join("a second name")).unwrap();
    set_time(&tree.join("script"), -1_500_000_000);
    set_time(&tree.join("empty file"), 1_234_567_890_123_456_789);
    fs::set_permissions(tree.join("inner/empty"), fs::Permissions::from_mode(0o500)).unwrap();
    set_time(&tree.join("inner/empty"), 99);
    fs::set_permissions(tree.join("inner"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_time(&tree.join("inner"), 7);
    set_time(&tree, 1_000_000_001);
    let target = there_and_back(&tree, PackOptions::default(), UnpackOptions::default());
    assert_eq!(listing(&target.path().join("copy")), listing(&tree));
    fs::set_permissions(tree.join("inner/empty"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(target.path().join("copy/inner/empty"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let sparse = |name: &str, length: u64, data: &[(u64, usize)]| {
        let file = File::create(tree.join(name)).unwrap();
        for (at, length) in data {
            file.write_all_at(&vec![0xa5; *length], *at).unwrap();
        }
        file.set_len(length).unwrap();
    };
    sparse("nothing", 1 << 30, &[]);
    sparse("small", 40_000, &[(8192, 10)]);
    sparse("front", 1 << 40, &[(0, 10)]);
    sparse("back", (1 << 30) + 5, &[((1 << 30) - 5, 10)]);
    sparse("many", 100 << 20, &(0..300).map(|at| (at * 300_000, 100)).collect::<Vec<_>>());
    let archive = packed(&tree);
    assert!(archive.len() < 4 << 20, "{} bytes for holes", archive.len());
    let target = tempfile::tempdir().unwrap();
    unpacked(&archive, &target.path().join("copy"), Holds::One, UnpackOptions::default()).unwrap();
    for name in ["nothing", "small", "front", "back", "many"] {
        let (one, other) = (tree.join(name), target.path().join("copy").join(name));
        let (before, after) = (fs::metadata(&one).unwrap(), fs::metadata(&other).unwrap());
        assert_eq!(after.len(), before.len(), "{name}");
        assert!(after.blocks() <= before.blocks() + 64, "{name}: {} blocks", after.blocks());
    }
    for name in ["small", "many"] {
        assert!(
            fs::read(tree.join(name)).unwrap() == fs::read(target.path().join("copy").join(name)).unwrap()
        );
    }
    let mut end = [1; 10];
    let back = File::open(target.path().join("copy/back")).unwrap();
    back.read_exact_at(&mut end, (1 << 30) - 5).unwrap();
    assert_eq!(end, [0xa5; 10]);
}

#[test]
fn extended_attributes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    let value: Vec<u8> = (0..=255).collect();
    for path in [tree.clone(), tree.join("file")] {
        let file = File::open(path).unwrap();
        if fsetxattr(&file, "user.note", &value, XattrFlags::empty()).is_err() {
            println!("skipped: the file system has no extended attributes");
            return;
        }
    }
    let target = there_and_back(&tree, PackOptions::default(), UnpackOptions::default());
    for path in ["copy", "copy/file"] {
        let mut found = [0; 300];
        let file = File::open(target.path().join(path)).unwrap();
        let length = fgetxattr(&file, "user.note", &mut found[..]).unwrap();
        assert_eq!(found[..length], value);
    }
}

#[test]
fn a_pipe_is_copied_only_if_asked_for_and_a_socket_never() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    assert!(Command::new("mkfifo").arg(tree.join("pipe")).status().unwrap().success());
    let refused = |expected: &str| {
        let mut packer = vmm_archive::Packer::new(Vec::new(), PackOptions::default());
        let error = packer.add(&tree, b"tree").unwrap_err().line();
        assert!(error.contains(expected) && error.contains("tree/"), "{error}");
    };
    refused("--devices");
    let devices = PackOptions { devices: true, ..PackOptions::default() };
    let with_devices = UnpackOptions { devices: true, ..UnpackOptions::default() };
    let target = there_and_back(&tree, devices, with_devices);
    assert_eq!(listing(&target.path().join("copy")), listing(&tree));
    let into = target.path().join("other");
    assert!(unpacked(&packed_with(&tree, devices), &into, Holds::One, UnpackOptions::default()).is_err());
    assert_eq!(names(target.path()), ["copy"], "nothing is left of what was refused");
    fs::remove_file(tree.join("pipe")).unwrap();
    let _socket = UnixListener::bind(tree.join("socket")).unwrap();
    refused("socket");
}

#[test]
fn set_id_bits_are_taken_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
    let archive = packed(&file);
    for (set_id, mode, taken) in [(false, 0o755, 1), (true, 0o6755, 0)] {
        let copy = folder.path().join(format!("copy-{set_id}"));
        let options = UnpackOptions { set_id, ..UnpackOptions::default() };
        assert_eq!(unpacked(&archive, &copy, Holds::One, options).unwrap().set_id_taken, taken);
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, mode);
    }
}

#[test]
fn what_the_kernel_makes_up_has_the_length_that_is_read() {
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("copy");
    unpacked(&packed(Path::new("/proc/version")), &copy, Holds::One, UnpackOptions::default()).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), fs::read("/proc/version").unwrap());
}

#[test]
fn a_very_deep_tree_is_no_matter() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let mut deep = tree.clone();
    // Longer than a path may be, in descriptors and in levels.
    for _ in 0..1500 {
        deep.push("d");
    }
    let script = "mkdir tree && cd tree && i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; echo x > file";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    let target = there_and_back(&tree, PackOptions::default(), UnpackOptions::default());
    let found = Command::new("find").arg(target.path()).args(["-name", "file"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout).matches("/d").count(), 1500);
}

/// A small tree of anything.
#[derive(Clone, Debug)]
enum Thing {
    File(Vec<u8>, u32),
    Link(String),
    Folder(Vec<(String, Thing)>, u32),
}

fn thing() -> impl Strategy<Value = Thing> {
    let leaf = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..2000), 0u32..0o1000)
            .prop_map(|(bytes, mode)| Thing::File(bytes, mode)),
        "[a-z/.]{1,200}".prop_map(Thing::Link),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        (prop::collection::vec(("[^/\0]{1,40}", inner), 0..6), 0u32..0o100)
            .prop_map(|(entries, mode)| Thing::Folder(entries, mode))
    })
}

fn make(path: &Path, thing: &Thing) {
    match thing {
        Thing::File(bytes, mode) => {
            File::create(path).unwrap().write_all(bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o400)).unwrap();
        }
        Thing::Link(to) => symlink(to, path).unwrap(),
        Thing::Folder(entries, mode) => {
            fs::create_dir(path).unwrap();
            for (name, thing) in entries {
                let path = path.join(name);
                if ![".", ".."].contains(&name.as_str()) && fs::symlink_metadata(&path).is_err() {
                    make(&path, thing);
                }
            }
            fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o700)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_out_as_it_was(thing in thing()) {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        make(&tree, &thing);
        let target = there_and_back(&tree, PackOptions::default(), UnpackOptions::default());
        prop_assert_eq!(listing(&target.path().join("copy")), listing(&tree));
    }
}
