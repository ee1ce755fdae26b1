//! Archives of GNU tar, in all of its formats, and GNU tar as a reader of ours.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use vmm_archive::{Holds, UnpackOptions};

use crate::{listing, packed, unpacked};

fn tree(folder: &Path, format: &str) {
    let tree = folder.join("tree");
    // What old formats have no words for is not in their archives.
    let long = match format {
        "v7" => "short".to_owned(),
        "ustar" => format!("{}/{}", "a".repeat(60), "b".repeat(60)),
        _ => "long name ".repeat(12),
    };
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("file"), "contents").unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::hard_link(tree.join("empty"), tree.join("empty too")).unwrap();
    symlink("empty", tree.join("link")).unwrap();
    if ["gnu", "posix"].contains(&format) {
        symlink("t".repeat(300), tree.join("long link")).unwrap();
        fs::write(tree.join(&long).join("n".repeat(200)), "a long name").unwrap();
    }
    let sparse = File::create(tree.join("sparse")).unwrap();
    for at in 0..40 {
        sparse.write_all_at(b"data", at * 100_000).unwrap();
    }
    sparse.set_len(5_000_000).unwrap();
}

/// What the formats without fractions of seconds keep.
fn whole_seconds(lines: Vec<String>) -> Vec<String> {
    let cut = |line: String| match line.find('.').and_then(|_| line.rfind(" links ")) {
        Some(links) => format!("{}{}", &line[..links - 10], &line[links..]),
        None => line,
    };
    lines.into_iter().map(cut).collect()
}

#[test]
fn every_format_of_gnu_tar_is_unpacked() {
    let variants: [(&str, &[&str]); 7] = [
        ("v7", &[]),
        ("ustar", &[]),
        ("gnu", &[]),
        ("gnu", &["--sparse"]),
        ("posix", &["--sparse", "--sparse-version=0.0"]),
        ("posix", &["--sparse", "--sparse-version=0.1"]),
        ("posix", &["--sparse", "--sparse-version=1.0"]),
    ];
    for (format, options) in variants {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), format);
        let made = Command::new("tar")
            .args(["-c", "-f", "a.tar", "--format", format])
            .args(options)
            .arg("tree")
            .current_dir(folder.path())
            .status()
            .unwrap();
        assert!(made.success(), "{format}");
        let archive = fs::read(folder.path().join("a.tar")).unwrap();
        let target = folder.path().join("target");
        unpacked(&archive, &target, Holds::Anything, UnpackOptions::default()).unwrap();
        let (before, after) = (listing(&folder.path().join("tree")), listing(&target.join("tree")));
        assert_eq!(whole_seconds(after), whole_seconds(before), "{format} {options:?}");
        if !options.is_empty() {
            assert!(fs::metadata(target.join("tree/sparse")).unwrap().blocks() < 1000);
        }
    }
}

#[test]
fn gnu_tar_unpacks_what_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path(), "posix");
    fs::write(folder.path().join("a.tar"), packed(&folder.path().join("tree"))).unwrap();
    fs::create_dir(folder.path().join("target")).unwrap();
    let output = Command::new("tar")
        .args(["-x", "-p", "-f", "../a.tar"])
        .current_dir(folder.path().join("target"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert_eq!(listing(&folder.path().join("target/tree")), listing(&folder.path().join("tree")));
    let sparse = folder.path().join("target/tree/sparse");
    assert!(fs::metadata(sparse).unwrap().blocks() < 1000);
}

#[test]
fn what_is_appended_last_holds_and_folders_need_no_member() {
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let status = Command::new("sh").args(["-ec", script]).current_dir(folder.path()).status().unwrap();
        assert!(status.success(), "{script}");
    };
    run(
        "mkdir -p a/b; echo old > a/b/file; tar -cf a.tar a/b/file; echo new > a/b/file; tar -rf a.tar a/b/file",
    );
    let archive = fs::read(folder.path().join("a.tar")).unwrap();
    let target = folder.path().join("target");
    unpacked(&archive, &target, Holds::Anything, UnpackOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(target.join("a/b/file")).unwrap(), "new\n");
    // And the same over what is there.
    fs::write(target.join("a/b/file"), "there").unwrap();
    assert_eq!(unpacked(&archive, &target, Holds::Anything, UnpackOptions::default()).unwrap().entries, 2);
    assert_eq!(fs::read_to_string(target.join("a/b/file")).unwrap(), "new\n");
}
