use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::error::ImageError;
use super::super::testing::wheel;
use super::*;
use crate::boot::compression::tests::{ALL, pack};
use crate::boot::testing::{bzimage, elf_kernel, gzip};

const ROOMY: Bounds = Bounds { length: 1 << 30, stored: 1 << 30 };

fn job(bounds: Bounds) -> Job<'static> {
    Job { image: "test", progress: &(), bounds }
}

/// A folder, and a file of it with these contents.
fn file(contents: &[u8]) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::write(&from, contents).unwrap();
    (folder, from, to)
}

/// A disk with a lot of nothing in it.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 8 << 20];
    disk[..1000].fill(1);
    disk[(5 << 20)..(5 << 20) + 5000].fill(2);
    disk
}

#[test]
fn what_is_decompressed_has_holes_for_its_zeroes() {
    let disk = disk();
    for compression in ALL {
        let (_folder, from, to) = file(&pack(compression, &disk));
        Transform::Decompress(compression).apply(&from, &to, job(ROOMY)).unwrap();
        assert!(fs::read(&to).unwrap() == disk, "{compression}");
        assert!(fs::metadata(&to).unwrap().blocks() * 512 <= 1 << 20, "{compression}");
    }
}

#[test]
fn a_bomb_ends_early_and_leaves_nothing() {
    for bounds in [Bounds { length: 1 << 20, stored: 1 << 20 }, Bounds { length: 1 << 30, stored: 1000 }] {
        for compression in ALL {
            let (_folder, from, to) = file(&pack(compression, &disk()));
            let error = Transform::Decompress(compression).apply(&from, &to, job(bounds)).unwrap_err();
            assert!(matches!(error, ImageError::TooLarge { .. }), "{compression}: {error}");
            assert!(!to.exists());
        }
        let (_folder, from, to) = file(&wheel(&[("disk.raw", &disk())]));
        assert!(Transform::Member("disk.raw").apply(&from, &to, job(bounds)).is_err());
        assert!(!to.exists());
    }
    let (_folder, from, to) = file(&disk());
    let bounds = Bounds { length: 1 << 30, stored: 1000 };
    assert!(Transform::Convert.apply(&from, &to, job(bounds)).is_err());
    assert!(!to.exists());
}

#[test]
fn what_is_damaged_is_an_error_and_leaves_nothing() {
    let packed = gzip(&disk());
    let (_folder, from, to) = file(&packed[..packed.len() / 2]);
    let error = Transform::Decompress(Compression::Gzip).apply(&from, &to, job(ROOMY)).unwrap_err();
    assert!(error.to_string().starts_with("cannot decompress"), "{error}");
    assert!(!to.exists());
}

struct Impatient;

impl Progress for Impatient {
    fn step(&self, _: Step<'_>) {}

    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn a_transform_is_given_up_when_it_is_asked_to() {
    let (_folder, from, to) = file(&gzip(&disk()));
    let job = Job { progress: &Impatient, ..job(ROOMY) };
    for transform in [Transform::Decompress(Compression::Gzip), Transform::Convert] {
        let error = transform.apply(&from, &to, job).unwrap_err();
        assert!(matches!(error, ImageError::Cancelled { .. }), "{error}");
        assert!(!to.exists());
    }
}

/// Runs `tar` in a folder; false where there is none.
fn tar(folder: &Path, arguments: &[&str]) -> bool {
    let ran = Command::new("tar").current_dir(folder).args(arguments).status();
    ran.is_ok_and(|status| status.success())
}

#[test]
fn a_member_comes_out_of_every_form_of_tar() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a".repeat(90);
    let names = ["disk.raw".to_owned(), format!("{long}/{long}/disk.raw")];
    fs::create_dir_all(folder.path().join(&long).join(&long)).unwrap();
    for name in &names {
        let file = File::create(folder.path().join(name)).unwrap();
        file.set_len(8 << 20).unwrap();
        for (at, length, byte) in [(0, 1000, 1), (5 << 20, 5000, 2)] {
            use std::os::unix::fs::FileExt;
            file.write_all_at(&vec![byte; length], at).unwrap();
        }
    }
    for format in ["--format=ustar", "--format=gnu", "--format=pax", "--format=oldgnu", "-S"] {
        let archive = folder.path().join("archive");
        let arguments =
            if format == "-S" { vec!["-S", "--format=gnu"] } else { vec![format, "--hard-dereference"] };
        let arguments = [&["-cf", "archive"], &arguments[..], &[&names[0], &names[1]]].concat();
        if !tar(folder.path(), &arguments) {
            println!("skipped: there is no tar that makes {format}");
            continue;
        }
        assert_eq!(archive::names(&archive).unwrap(), names, "{format}");
        for name in &names {
            let to = folder.path().join("to");
            archive::extract(&archive, name, &to, job(ROOMY)).unwrap();
            assert!(fs::read(&to).unwrap() == disk(), "{format} {name}");
            fs::remove_file(&to).unwrap();
        }
        let error = archive::extract(&archive, "other", &folder.path().join("to"), job(ROOMY)).unwrap_err();
        assert!(matches!(error, ImageError::NoMember { .. }), "{error}");
    }
}

#[test]
fn a_member_comes_out_of_a_zip_archive() {
    let (_folder, from, to) = file(&wheel(&[("notes/", b""), ("notes/a", b"a"), ("disk.raw", &disk())]));
    assert_eq!(archive::names(&from).unwrap(), ["notes/a", "disk.raw"]);
    Transform::Member("disk.raw").apply(&from, &to, job(ROOMY)).unwrap();
    assert!(fs::read(&to).unwrap() == disk());
    let other = to.with_extension("other");
    assert!(Transform::Member("other").apply(&from, &other, job(ROOMY)).is_err());
}

#[test]
fn transforms_follow_each_other_and_leave_only_what_they_made() {
    let kernel = elf_kernel("6.18.56-0-virt");
    let (folder, from, to) = file(&gzip(&wheel(&[("boot/kernel", &bzimage(&gzip(&kernel)))])));
    let steps = [
        Transform::Decompress(Compression::Gzip),
        Transform::Member("boot/kernel"),
        Transform::UnpackKernel(Arch::X86_64),
    ];
    apply_all(&steps, &from, &to, kernel.len() as u64, ("test", &())).unwrap();
    assert!(fs::read(&to).unwrap() == kernel);
    assert_eq!(files::names_in(folder.path()).unwrap(), ["to"]);
    // The last step makes no more than is pinned.
    let (_folder, from, to) = file(&gzip(&disk()));
    let error = apply_all(&steps[..1], &from, &to, 1 << 20, ("test", &())).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { limit: 0x10_0000, .. }), "{error}");
}

/// A tar archive with a file, a note of pax, and a sparse file.
fn small_tar() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, kind, contents) in [
        ("first", b'0', &b"0123456789"[..]),
        ("note", b'x', b"19 path=renamed/it\n"),
        ("second", b'0', b"abc"),
        ("sparse", b'S', b"xyz"),
    ] {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[257..263].copy_from_slice(b"ustar ");
        (&mut header[124..136]).write_all(format!("{:011o}", contents.len()).as_bytes()).unwrap();
        header[156] = kind;
        if kind == b'S' {
            (&mut header[386..398]).write_all(b"00000001000").unwrap();
            (&mut header[398..410]).write_all(b"00000000003").unwrap();
            (&mut header[483..495]).write_all(b"00000002000").unwrap();
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        (&mut header[148..156]).write_all(format!("{sum:06o}\0 ").as_bytes()).unwrap();
        archive.extend(header);
        archive.extend(contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.extend([0; 1024]);
    archive
}

#[test]
fn names_and_holes_are_those_of_the_archive() {
    let (_folder, from, to) = file(&small_tar());
    assert_eq!(archive::names(&from).unwrap(), ["first", "renamed/it", "sparse"]);
    archive::extract(&from, "sparse", &to, job(ROOMY)).unwrap();
    let mut expected = vec![0; 1024];
    expected[512..515].copy_from_slice(b"xyz");
    assert_eq!(fs::read(&to).unwrap(), expected);
}

proptest! {
    #[test]
    fn no_archive_breaks_its_reader(
        changes in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..8),
        right in any::<bool>(),
    ) {
        let mut archive = small_tar();
        for (at, byte) in changes {
            let length = archive.len();
            archive[at % length] = byte;
        }
        if right {
            // Checksums that are right let more of it be believed.
            for at in (0..archive.len() - 512).step_by(512) {
                let header = &mut archive[at..at + 512];
                if &header[257..262] == b"ustar" {
                    header[148..156].fill(b' ');
                    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                    (&mut header[148..156]).write_all(format!("{sum:06o}\0 ").as_bytes()).unwrap();
                }
            }
        }
        let (_folder, from, to) = file(&archive);
        let bounds = Bounds { length: 1 << 20, stored: 1 << 20 };
        for name in archive::names(&from).unwrap_or_default() {
            if archive::extract(&from, &name, &to, job(bounds)).is_ok() {
                prop_assert!(fs::metadata(&to).unwrap().len() <= 1 << 20);
                fs::remove_file(&to).unwrap();
            }
        }
    }
}
