//! Where copies go, as with `cp -a`, and what is replaced.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use vmm_archive::{Holds, PackOptions, Packer, Place, UnpackOptions, root_name, unpack};

use crate::{names, packed, unpacked};

fn copy(source: &Path, target: &Path) -> Result<(), vmm_archive::Error> {
    unpacked(&packed(source), target, Holds::One, UnpackOptions::default()).map(drop)
}

/// A folder with `tree/file`, `file` and an empty folder `there`.
fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tree")).unwrap();
    fs::create_dir(folder.path().join("there")).unwrap();
    fs::write(folder.path().join("tree/file"), "in the tree").unwrap();
    fs::write(folder.path().join("file"), "new").unwrap();
    folder
}

#[test]
fn a_file_takes_a_name_or_goes_into_a_folder() {
    let scene = scene();
    let at = |path: &str| scene.path().join(path);
    copy(&at("file"), &at("copy")).unwrap();
    copy(&at("file"), &at("there")).unwrap();
    copy(&at("file"), &at("there/other")).unwrap();
    assert_eq!(names(&at("there")), ["file", "other"]);
    assert!(copy(&at("file"), &at("missing/")).is_err());
    assert!(copy(&at("file"), &at("missing/file")).is_err());
    assert!(copy(&at("file"), &at("copy/")).is_err());
    assert_eq!(names(scene.path()), ["copy", "file", "there", "tree"]);
}

#[test]
fn a_tree_takes_a_name_or_goes_into_a_folder_and_a_dot_means_what_is_in_it() {
    let scene = scene();
    let at = |path: &str| scene.path().join(path);
    copy(&at("tree"), &at("copy")).unwrap();
    copy(&at("tree/"), &at("slash/")).unwrap();
    copy(&at("tree/."), &at("dot")).unwrap();
    for name in ["copy", "slash", "dot"] {
        assert_eq!(names(&at(name)), ["file"], "{name}");
    }
    copy(&at("tree"), &at("there")).unwrap();
    copy(&at("tree/."), &at("there")).unwrap();
    assert_eq!(names(&at("there")), ["file", "tree"]);
    let error = copy(&at("tree"), &at("file")).unwrap_err().line();
    assert!(error.contains("is a file"), "{error}");
}

#[test]
fn what_is_there_is_replaced_and_the_rest_stays() {
    let scene = scene();
    let at = |path: &str| scene.path().join(path);
    fs::create_dir_all(at("there/tree/inner")).unwrap();
    fs::write(at("there/tree/file"), "old").unwrap();
    fs::write(at("there/tree/kept"), "kept").unwrap();
    fs::set_permissions(at("there/tree"), fs::Permissions::from_mode(0o750)).unwrap();
    let before = fs::metadata(at("there/tree/file")).unwrap().ino();
    copy(&at("tree"), &at("there")).unwrap();
    assert_eq!(fs::read_to_string(at("there/tree/file")).unwrap(), "in the tree");
    assert_ne!(fs::metadata(at("there/tree/file")).unwrap().ino(), before, "nothing is written in place");
    assert_eq!(names(&at("there/tree")), ["file", "inner", "kept"]);
    assert_eq!(fs::metadata(at("there/tree")).unwrap().mode() & 0o777, 0o750, "a folder keeps its mode");
    // Twice, with two names of one file.
    fs::hard_link(at("tree/file"), at("tree/twin")).unwrap();
    for _ in 0..2 {
        copy(&at("tree"), &at("there")).unwrap();
        assert_eq!(names(&at("there/tree")), ["file", "inner", "kept", "twin"]);
        assert_eq!(fs::metadata(at("there/tree/twin")).unwrap().nlink(), 2);
    }
    // No folder gives way to a file, and no file to a folder.
    fs::remove_file(at("there/tree/file")).unwrap();
    fs::create_dir(at("there/tree/file")).unwrap();
    assert!(copy(&at("tree"), &at("there")).unwrap_err().line().contains("is a folder"));
}

#[test]
fn a_link_to_a_file_has_its_file_replaced() {
    let scene = scene();
    let at = |path: &str| scene.path().join(path);
    fs::write(at("there/real"), "old").unwrap();
    symlink("there/real", at("link")).unwrap();
    copy(&at("file"), &at("link")).unwrap();
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("there/real"));
    assert_eq!(fs::read_to_string(at("there/real")).unwrap(), "new");
    assert_eq!(names(&at("there")), ["real"]);
}

#[test]
fn several_roots_go_into_a_folder_all_at_the_end() {
    let scene = scene();
    let at = |path: &str| scene.path().join(path);
    let mut packer = Packer::new(Vec::new(), PackOptions::default());
    for name in ["tree", "file"] {
        packer.add(&at(name), &root_name(Path::new(name))).unwrap();
    }
    let archive = packer.finish().unwrap().0;
    let place = Place::find(&at("there"), Holds::Several).unwrap();
    let unpacked = unpack(&archive[..], place, UnpackOptions::default()).unwrap();
    assert!(names(&at("there")).iter().all(|name| name.ends_with(".partial")));
    unpacked.commit().unwrap();
    assert_eq!(names(&at("there")), ["file", "tree"]);
    let place = Place::find(&at("there"), Holds::Several).unwrap();
    drop(unpack(&archive[..], place, UnpackOptions::default()).unwrap());
    assert_eq!(names(&at("there")), ["file", "tree"]);
}
