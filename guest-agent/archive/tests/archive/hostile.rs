//! Archives of enemies: whatever they say, nothing outside the target changes, and nothing is left.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use vmm_archive::{BLOCK, Holds, UnpackOptions};

use crate::{listing, names, packed, unpacked};

/// A header as any tool could write it, with the data behind it.
fn member(name: &[u8], kind: u8, link: &[u8], data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    block[154] = 0;
}

fn note(text: &str) -> Vec<u8> {
    member(b"note", b'x', b"", text.as_bytes())
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = members.concat();
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|length: &usize| length == &(rest + length.to_string().len())).unwrap();
    format!("{length} {key}={value}\n")
}

fn file(name: &[u8]) -> Vec<u8> {
    member(name, b'0', b"", b"owned")
}

fn table() -> Vec<(&'static str, Vec<u8>)> {
    let huge = {
        let mut header = file(b"huge");
        header[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
        sum(&mut header);
        header
    };
    let sparse = |map: &str| {
        let note = note(
            &[
                record("GNU.sparse.major", "1"),
                record("GNU.sparse.minor", "0"),
                record("GNU.sparse.name", "sparse"),
                record("GNU.sparse.realsize", "100"),
            ]
            .concat(),
        );
        let mut data = map.as_bytes().to_vec();
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        archive(&[note, member(b"sparse", b'0', b"", &data)])
    };
    vec![
        ("a name that climbs", archive(&[file(b"../outside")])),
        ("a name that climbs later", archive(&[file(b"a/../../outside")])),
        ("an absolute name", archive(&[file(b"/tmp/outside")])),
        ("a noted name that climbs", archive(&[note(&record("path", "../outside")), file(b"fine")])),
        ("a noted name with a zero", archive(&[note(&record("path", "a\0b")), file(b"fine")])),
        ("a noted name without end", archive(&[note(&record("path", &"a/".repeat(5000))), file(b"fine")])),
        ("an empty name", archive(&[file(b"")])),
        (
            "a name through a link",
            archive(&[member(b"link", b'2', b"../outside-folder", b""), file(b"link/owned")]),
        ),
        (
            "a name through a link to a link",
            archive(&[
                member(b"d/", b'5', b"", b""),
                member(b"d/one", b'2', b"/", b""),
                member(b"two", b'2', b"d/one", b""),
                file(b"two/tmp/owned"),
            ]),
        ),
        (
            "a folder over a link",
            archive(&[
                member(b"link", b'2', b"../outside-folder", b""),
                member(b"link/", b'5', b"", b""),
                file(b"link/owned"),
            ]),
        ),
        (
            "a hard link that climbs",
            archive(&[member(b"hard", b'1', b"../outside-file", b""), file(b"hard")]),
        ),
        ("an absolute hard link", archive(&[member(b"hard", b'1', b"/etc/passwd", b"")])),
        (
            "a hard link through a link",
            archive(&[member(b"link", b'2', b"..", b""), member(b"hard", b'1', b"link/outside-file", b"")]),
        ),
        ("a hard link to nothing", archive(&[member(b"hard", b'1', b"missing", b"")])),
        ("a hard link to itself", archive(&[member(b"hard", b'1', b"hard", b"")])),
        (
            "a hard link to a folder",
            archive(&[member(b"d/", b'5', b"", b""), member(b"hard", b'1', b"d", b"")]),
        ),
        ("a device", archive(&[member(b"null", b'3', b"", b"")])),
        ("a pipe", archive(&[member(b"pipe", b'6', b"", b"")])),
        ("a kind that is not known", archive(&[member(b"what", b'Z', b"", b"")])),
        ("a part of a volume", archive(&[member(b"what", b'M', b"", b"")])),
        ("a file beneath a file", archive(&[file(b"file"), file(b"file/file")])),
        ("a file over a folder", archive(&[member(b"d/", b'5', b"", b""), file(b"d")])),
        ("a length beyond everything", archive(&[huge])),
        ("a length beyond the archive", file(b"cut")[..BLOCK].to_vec()),
        ("no end", file(b"cut")),
        ("a wrong checksum", {
            let mut archive = archive(&[file(b"a")]);
            archive[0] = b'b';
            archive
        }),
        (
            "a note without end",
            archive(&[{
                let mut note = note("");
                note[124..135].copy_from_slice(b"77777777777");
                sum(&mut note);
                note
            }]),
        ),
        ("notes without end", archive(&vec![note(&record("comment", &"x".repeat(60_000))); 40])),
        ("a note that is none", archive(&[note("nonsense"), file(b"a")])),
        ("a negative length", archive(&[note(&record("size", "-1")), file(b"a")])),
        ("a map without numbers", sparse("x\n")),
        ("a map beyond its file", sparse("1\n90\n20\n")),
        ("a map that goes back", sparse("2\n50\n1\n10\n1\n")),
        ("a map of more than there is", sparse("1\n0\n50\n")),
        ("a map without end", sparse("18446744073709551615\n")),
        ("a map that overflows", sparse("1\n18446744073709551615\n18446744073709551615\n")),
    ]
}

/// A folder with a target in it, and things beside it that nobody may touch.
fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("outside-folder")).unwrap();
    fs::write(folder.path().join("outside-file"), "untouched").unwrap();
    fs::create_dir(folder.path().join("target")).unwrap();
    folder
}

#[test]
fn every_hostile_archive_is_refused_and_leaves_nothing() {
    for (what, archive) in table() {
        for (target, holds) in [
            ("target", Holds::Anything),
            ("new", Holds::Anything),
            ("target", Holds::Several),
            ("new", Holds::One),
        ] {
            let scene = scene();
            let before = listing(&scene.path().join("outside-folder"));
            let target = scene.path().join(target);
            let result = unpacked(&archive, &target, holds, UnpackOptions::default());
            assert!(result.is_err(), "{what} was unpacked as {holds:?}");
            assert_eq!(names(scene.path()), ["outside-file", "outside-folder", "target"], "{what}");
            assert!(names(&scene.path().join("target")).is_empty(), "{what} left something");
            assert_eq!(listing(&scene.path().join("outside-folder")), before, "{what}");
            let outside = scene.path().join("outside-file");
            assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1, "{what}");
            assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched", "{what}");
        }
    }
}

#[test]
fn a_link_that_is_there_already_leads_nowhere() {
    let scene = scene();
    let target = scene.path().join("target");
    symlink("../outside-folder", target.join("link")).unwrap();
    symlink("../outside-file", target.join("file")).unwrap();
    fs::create_dir(target.join("d")).unwrap();
    symlink("../../outside-folder", target.join("d/link")).unwrap();
    for name in [&b"link/owned"[..], b"d/link/owned", b"d/link/deeper/owned"] {
        let error = unpacked(&archive(&[file(name)]), &target, Holds::Anything, UnpackOptions::default());
        assert!(error.is_err(), "{name:?}");
    }
    // The link itself is replaced, as anything that has the name.
    unpacked(&archive(&[file(b"file"), file(b"d/link")]), &target, Holds::Anything, UnpackOptions::default())
        .unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "owned");
    assert_eq!(fs::read_to_string(target.join("d/link")).unwrap(), "owned");
    assert_eq!(fs::read_to_string(scene.path().join("outside-file")).unwrap(), "untouched");
    assert!(names(&scene.path().join("outside-folder")).is_empty());
}

#[test]
fn a_tree_that_breaks_its_promise_of_one_root_is_refused() {
    let scene = scene();
    for members in [
        vec![file(b"a"), file(b"b")],
        vec![member(b"d/", b'5', b"", b""), file(b"e/f")],
        vec![file(b"d/f")],
        vec![],
    ] {
        let new = scene.path().join("new");
        assert!(unpacked(&archive(&members), &new, Holds::One, UnpackOptions::default()).is_err());
        assert!(!new.exists());
    }
    assert_eq!(names(scene.path()), ["outside-file", "outside-folder", "target"]);
}

#[test]
fn an_archive_that_is_cut_anywhere_leaves_the_target_as_it_was() {
    let scene = scene();
    let tree = scene.path().join("outside-folder");
    fs::create_dir(tree.join("d")).unwrap();
    fs::write(tree.join("d/file"), "x".repeat(2000)).unwrap();
    fs::write(tree.join("file"), "y").unwrap();
    let whole = packed(&tree);
    for length in (0..whole.len() - BLOCK).step_by(97) {
        let new = scene.path().join("new");
        assert!(unpacked(&whole[..length], &new, Holds::One, UnpackOptions::default()).is_err(), "{length}");
        assert_eq!(names(scene.path()), ["outside-file", "outside-folder", "target"]);
    }
}

fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just(b"a".to_vec()),
        Just(b"d/".to_vec()),
        Just(b"d/b".to_vec()),
        Just(b"./d/l/x".to_vec()),
        Just(b"d/l".to_vec()),
        prop::collection::vec(any::<u8>(), 0..100),
    ];
    let link =
        prop_oneof![Just(b"..".to_vec()), Just(b"a".to_vec()), Just(b"d/l".to_vec()), Just(b"/".to_vec())];
    let kind = prop::sample::select(b"0123456567SLKxgDV".to_vec());
    (name, kind, link, prop::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(name, kind, link, data)| member(&name, kind, &link, &data))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_archive_reaches_outside(members in prop::collection::vec(blocks(), 0..12)) {
        let scene = scene();
        let outside = || {
            let mut lines = listing(&scene.path().join("outside-folder"));
            lines.extend(listing(&scene.path().join("outside-file")));
            lines
        };
        let before = outside();
        let target = |name: &str| -> Box<Path> { scene.path().join(name).into() };
        let _ = unpacked(&archive(&members), &target("target"), Holds::Anything, UnpackOptions::default());
        let _ = unpacked(&archive(&members), &target("new"), Holds::One, UnpackOptions::default());
        prop_assert_eq!(outside(), before);
        prop_assert!(names(scene.path()).iter().all(|name| !name.ends_with(".partial")));
    }
}
