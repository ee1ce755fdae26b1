use super::*;

fn folder_with(contents: &[u8]) -> (tempfile::TempDir, FileRecord) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), contents).unwrap();
    let record =
        FileRecord { name: "file".into(), size: contents.len() as u64, sha256: Digest::of(contents) };
    (folder, record)
}

/// Lets the index say that the file was found good, with these contents, a second after its last change.
fn remember(folder: &Path, record: &FileRecord) -> Look {
    let metadata = std::fs::metadata(folder.join(&record.name)).unwrap();
    let mut look = Look::at(&metadata, record.sha256, 0);
    look.checked_ns = look.changed_ns + 1_000_000_000;
    write_index(&folder.join(INDEX), &BTreeMap::from([(record.name.clone(), look.clone())]));
    look
}

fn looks_good(folder: &Path, record: &FileRecord, thoroughness: Thoroughness) -> bool {
    verify(folder, std::slice::from_ref(record), thoroughness).unwrap().is_none()
}

#[test]
fn a_file_that_looks_as_it_did_is_not_read_again() {
    // Given a file whose contents are wrong and remembered as right: only reading it would tell.
    let (folder, record) = folder_with(b"abc");
    let record = FileRecord { sha256: Digest::of(b"other"), ..record };
    remember(folder.path(), &record);
    assert!(looks_good(folder.path(), &record, Thoroughness::Remembered));
    assert!(!looks_good(folder.path(), &record, Thoroughness::Full));
}

#[test]
fn a_file_that_looks_different_is_read_again() {
    let (folder, record) = folder_with(b"abc");
    remember(folder.path(), &record);
    let path = folder.path().join("file");
    // Another inode, with the same size and times.
    let other = folder.path().join("other");
    std::fs::write(&other, b"abd").unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
    std::fs::rename(&other, &path).unwrap();
    let damage = verify(folder.path(), &[record], Thoroughness::Remembered).unwrap().unwrap();
    assert_eq!(damage, Damage { path, what: "its contents have changed".into() });
}

#[test]
fn a_look_too_soon_after_a_change_is_not_trusted() {
    let (folder, record) = folder_with(b"abc");
    let record = FileRecord { sha256: Digest::of(b"other"), ..record };
    let mut look = remember(folder.path(), &record);
    look.checked_ns = look.changed_ns + SETTLED - 1;
    assert!(!look.is_settled());
    write_index(&folder.path().join(INDEX), &BTreeMap::from([("file".to_owned(), look)]));
    assert!(!looks_good(folder.path(), &record, Thoroughness::Remembered));
}

#[test]
fn what_is_remembered_for_other_contents_does_not_count() {
    let (folder, record) = folder_with(b"abc");
    remember(folder.path(), &record);
    let other = FileRecord { sha256: Digest::of(b"abd"), ..record };
    assert!(!looks_good(folder.path(), &other, Thoroughness::Remembered));
}

#[test]
fn an_index_that_cannot_be_read_costs_only_time() {
    let (folder, record) = folder_with(b"abc");
    for index in [&b""[..], b"{", b"[]", &[0xff; 100]] {
        std::fs::write(folder.path().join(INDEX), index).unwrap();
        assert!(looks_good(folder.path(), &record, Thoroughness::Remembered));
        assert_eq!(read_index(&folder.path().join(INDEX)).len(), 1);
    }
}

#[test]
fn what_is_missing_cut_or_elsewhere_is_damage() {
    let (folder, record) = folder_with(b"abc");
    let what = |record: &FileRecord| {
        verify(folder.path(), std::slice::from_ref(record), Thoroughness::Remembered).unwrap().unwrap().what
    };
    assert_eq!(what(&FileRecord { name: "none".into(), ..record.clone() }), "it is missing");
    assert_eq!(what(&FileRecord { size: 4, ..record.clone() }), "its size is wrong");
    assert_eq!(what(&FileRecord { name: "../file".into(), ..record }), "its name leads out of its folder");
}
