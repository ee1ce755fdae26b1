//! What cannot be right is refused by name; what is in use is refused to others.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmm_disk::qcow2::{HeaderError, Layout, Qcow2Image};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{
    DiskImage, Error, Format, LayerFile, LayerSpec, create_overlay, create_raw, inspect, open_chain,
    open_chain_files,
};

fn image() -> Vec<u8> {
    let storage = MemoryStorage::default();
    Layout::new(1 << 30).write(&storage).unwrap();
    storage.bytes()
}

/// Opens an image after a change.
fn open(change: impl FnOnce(&mut Vec<u8>), read_only: bool) -> Result<Qcow2Image, HeaderError> {
    let mut bytes = image();
    change(&mut bytes);
    Qcow2Image::open(Arc::new(MemoryStorage::new(bytes)), None, read_only)
}

fn set(at: usize, bytes: &[u8]) -> impl FnOnce(&mut Vec<u8>) + '_ {
    move |image| image[at..at + bytes.len()].copy_from_slice(bytes)
}

macro_rules! assert_refused {
    ($error:pat, $change:expr) => {
        let refused = open($change, true);
        assert!(matches!(refused, Err($error)), "{:?} is not {}", refused.err(), stringify!($error));
    };
}

#[test]
fn every_absurd_header_is_refused_by_name() {
    open(|_| {}, false).unwrap();
    assert_refused!(HeaderError::TooShort { .. }, |image| image.truncate(0));
    assert_refused!(HeaderError::TooShort { .. }, |image| image.truncate(103));
    assert_refused!(HeaderError::Magic, set(0, b"QFJ"));
    assert_refused!(HeaderError::Version { version: 1 }, set(7, &[1]));
    assert_refused!(HeaderError::Version { version: 4 }, set(7, &[4]));
    assert_refused!(HeaderError::ClusterSize { bits: 8 }, set(23, &[8]));
    assert_refused!(HeaderError::ClusterSize { bits: 22 }, set(23, &[22]));
    assert_refused!(HeaderError::ClusterSize { .. }, set(20, &[0xff; 4]));
    assert_refused!(HeaderError::Encrypted, set(35, &[1]));
    assert_refused!(HeaderError::Encrypted, set(35, &[2]));
    assert_refused!(HeaderError::ExternalData, set(79, &[4]));
    assert_refused!(HeaderError::ExtendedL2, set(79, &[16]));
    assert_refused!(HeaderError::Compression { .. }, set(79, &[8]));
    assert_refused!(HeaderError::Compression { method: 2 }, |image| {
        set(79, &[8])(image);
        set(103, &[112])(image);
        set(104, &[2])(image);
    });
    assert_refused!(HeaderError::Features { bits: 0x20 }, set(79, &[0x20]));
    assert_refused!(HeaderError::Features { .. }, set(72, &[0x80]));
    assert_refused!(HeaderError::RefcountWidth { order: 7 }, set(99, &[7]));
    assert_refused!(HeaderError::RefcountWidth { .. }, set(96, &[0xff; 4]));
    assert_refused!(HeaderError::Length { .. }, set(100, &[0; 4]));
    assert_refused!(HeaderError::Length { .. }, set(100, &[0xff; 4]));
    assert_refused!(HeaderError::Extension, set(104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]));
    assert_refused!(HeaderError::Size { .. }, set(24, &[0xff; 8]));
    assert_refused!(HeaderError::Size { .. }, set(24, &[0x7f; 8]));
    assert_refused!(HeaderError::L1Misaligned { .. }, set(47, &[1]));
    assert_refused!(HeaderError::L1Outside, set(40, &[0x7f]));
    assert_refused!(HeaderError::L1Outside, set(40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]));
    assert_refused!(HeaderError::L1Outside, |image| image.truncate(3 * 65536 + 8));
    assert_refused!(HeaderError::L1TooLarge { .. }, set(36, &[0xff; 4]));
    assert_refused!(HeaderError::L1TooSmall { .. }, set(36, &[0; 4]));
    assert_refused!(HeaderError::RefcountTableMisaligned { .. }, set(55, &[1]));
    assert_refused!(HeaderError::RefcountTableMisaligned { offset: 0 }, set(48, &[0; 8]));
    assert_refused!(HeaderError::RefcountTableOutside, set(48, &[0x7f]));
    assert_refused!(HeaderError::RefcountTableSize { .. }, set(56, &[0; 4]));
    assert_refused!(HeaderError::RefcountTableSize { .. }, set(56, &[0xff; 4]));
    // The L1 table in place of the header, and of the refcount table.
    assert_refused!(HeaderError::Overlap, set(40, &[0; 8]));
    assert_refused!(HeaderError::Overlap, set(40, &65536_u64.to_be_bytes()));
    assert_refused!(HeaderError::BackingName, |image| {
        set(8, &[0xff; 8])(image);
        set(19, &[1])(image);
    });
    assert_refused!(HeaderError::BackingName, |image| {
        set(14, &[1])(image);
        set(16, &[0xff; 4])(image);
    });
    assert_refused!(HeaderError::JsonName, |image| {
        set(14, &[1])(image);
        set(19, &[10])(image);
        set(256, b"json:{...}")(image);
    });
}

#[test]
fn what_may_be_read_is_not_always_written() {
    for (bit, dirty) in [(1, true), (2, false)] {
        open(set(79, &[bit]), true).unwrap();
        let error = open(set(79, &[bit]), false).unwrap_err();
        assert!(matches!((dirty, error), (true, HeaderError::Dirty) | (false, HeaderError::Corrupt)));
    }
    let error = open(set(65536, &[0x7f]), false).unwrap_err();
    assert!(matches!(error, HeaderError::RefcountBlock { .. }), "{error}");
    let error = open(set(65542, &[0, 1]), false).unwrap_err();
    assert!(matches!(error, HeaderError::RefcountBlock { .. }), "{error}");
    for cluster in [0, 1, 3] {
        let error = open(set(2 * 65536 + cluster * 2, &[0, 0]), false).unwrap_err();
        assert!(matches!(error, HeaderError::Refcounts { .. }), "{error}");
    }
}

#[test]
fn guest_data_is_never_written_over_the_tables() {
    for table in [0, 65536, 3 * 65536_u64] {
        // An L2 table that maps the first cluster to a table, and claims that it is ours alone.
        let mut bytes = image();
        let l2 = bytes.len();
        bytes.resize(l2 + 65536, 0);
        bytes[l2..l2 + 8].copy_from_slice(&(table | 1 << 63).to_be_bytes());
        bytes[3 * 65536..3 * 65536 + 8].copy_from_slice(&(l2 as u64 | 1 << 63).to_be_bytes());
        let storage = Arc::new(MemoryStorage::new(bytes));
        let before = storage.bytes();
        let disk = Qcow2Image::open(storage.clone(), None, false).unwrap();
        let write = disk.write(&[std::io::IoSlice::new(&[0xff; 512])], 0);
        if table == 0 {
            // An offset of zero is no place at all.
            write.unwrap();
            continue;
        }
        assert_eq!(write.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
        disk.write_zeroes(0, 512, false).unwrap_err();
        disk.write_zeroes(0, 65536, false).unwrap_err();
        assert!(storage.bytes() == before);
    }
}

/// An image whose first L1 entry leads to an L2 table at its end, with this first entry.
fn image_with_l2_entry(entry: u64) -> Vec<u8> {
    let mut bytes = image();
    let l2 = bytes.len();
    bytes.resize(l2 + 65536, 0);
    bytes[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
    bytes[3 * 65536..3 * 65536 + 8].copy_from_slice(&(l2 as u64 | 1 << 63).to_be_bytes());
    // Counted, so that nobody takes its cluster: it is the fifth.
    bytes[2 * 65536 + 4 * 2 + 1] = 1;
    bytes
}

fn assert_stays_as_it_is(image: &[u8], change: impl Fn(&Qcow2Image) -> std::io::Result<()>) {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let disk = Qcow2Image::open(storage.clone(), None, false).unwrap();
    assert_eq!(change(&disk).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    disk.flush().unwrap();
    // What is let go of is given back when a disk is closed.
    drop(disk);
    assert!(storage.bytes()[..image.len()] == *image);
}

#[test]
fn the_tables_are_never_given_back_in_place_of_guest_data() {
    const COPIED: u64 = 1 << 63;
    const COMPRESSED: u64 = 1 << 62;
    let write = |disk: &Qcow2Image| disk.write(&[std::io::IoSlice::new(&[0xff; 512])], 0);
    let unmap = |disk: &Qcow2Image| disk.write_zeroes(0, 65536, true);
    let discard = |disk: &Qcow2Image| disk.discard(0, 65536);
    for table in [65536, 3 * 65536] {
        assert_stays_as_it_is(&image_with_l2_entry(table), write);
        for entry in [table, table | COPIED, table | COMPRESSED] {
            assert_stays_as_it_is(&image_with_l2_entry(entry), unmap);
            assert_stays_as_it_is(&image_with_l2_entry(entry), discard);
        }
    }
    // A compressed cluster in the header's.
    assert_stays_as_it_is(&image_with_l2_entry(COMPRESSED | 512), discard);
}

#[test]
fn a_table_is_never_written_as_an_l2_table() {
    for table in [65536, 3 * 65536_u64] {
        for flag in [0, 1 << 63] {
            let mut bytes = image();
            bytes[3 * 65536..3 * 65536 + 8].copy_from_slice(&(table | flag).to_be_bytes());
            // Its last entries are empty in either, as for clusters that were never written.
            let at = (8191 * 65536) as u64;
            assert_stays_as_it_is(&bytes, |disk| disk.write(&[std::io::IoSlice::new(&[0xff; 512])], at));
        }
    }
}

fn layer(path: &Path, format: Format) -> LayerSpec {
    LayerSpec { path: path.to_owned(), format }
}

fn folder_with_layers() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (base, top) = (folder.path().join("base.raw"), folder.path().join("top.qcow2"));
    create_raw(&base, 1 << 20).unwrap();
    create_overlay(&top, 1 << 20).unwrap();
    (folder, base, top)
}

#[test]
fn a_layer_has_one_writer_or_any_number_of_readers() {
    let (folder, base, top) = folder_with_layers();
    let second = folder.path().join("second.qcow2");
    create_overlay(&second, 1 << 20).unwrap();
    let chain = [layer(&base, Format::Raw), layer(&top, Format::Qcow2)];
    let disk = open_chain(&chain, false).unwrap();

    let Err(Error::InUse { path }) = open_chain(&chain, false) else { panic!("two writers") };
    assert_eq!(path, top);
    let Err(Error::InUse { path }) = open_chain(&chain, true) else { panic!("a reader beside a writer") };
    assert_eq!(path, top);
    let Err(Error::InUse { path }) = open_chain(&chain[..1], false) else { panic!("a base is written") };
    assert_eq!(path, base);
    let other = open_chain(&[chain[0].clone(), layer(&second, Format::Qcow2)], false).unwrap();
    drop(disk);
    let disk = open_chain(&chain, true).unwrap();
    open_chain(&chain, true).unwrap();
    assert!(disk.read_only());
    drop((disk, other));
    open_chain(&chain, false).unwrap();
}

#[test]
fn a_lock_travels_with_its_open_file() {
    let (_folder, base, top) = folder_with_layers();
    let open = |path: &Path| std::fs::File::options().read(true).write(true).open(path).unwrap();
    let file = |path: &Path, format| LayerFile { file: open(path), path: path.to_owned(), format };
    let files = vec![file(&base, Format::Raw), file(&top, Format::Qcow2)];
    let disk = open_chain_files(files, false).unwrap();
    assert!(matches!(open_chain(&[layer(&top, Format::Qcow2)], false), Err(Error::InUse { .. })));
    drop(disk);
    open_chain(&[layer(&top, Format::Qcow2)], false).unwrap();
}

#[test]
fn impossible_chains_are_refused() {
    let (folder, base, top) = folder_with_layers();
    let (raw, overlay) = (layer(&base, Format::Raw), layer(&top, Format::Qcow2));
    assert!(matches!(open_chain(&[], false), Err(Error::NoLayers)));
    assert!(matches!(open_chain(&[overlay.clone(), raw.clone()], false), Err(Error::RawAbove { .. })));
    assert!(matches!(open_chain(&vec![overlay.clone(); 129], true), Err(Error::TooDeep { count: 129 })));
    assert!(matches!(open_chain(&[overlay.clone(), overlay], false), Err(Error::InUse { .. })));
    let missing = layer(&folder.path().join("missing"), Format::Raw);
    let error = open_chain(&[missing], false).err().unwrap();
    assert!(matches!(error, Error::OpenLayer { .. }) && error.to_string().contains("missing"));
    assert!(matches!(open_chain(&[layer(&base, Format::Qcow2)], true), Err(Error::Qcow2 { .. })));
    assert!(matches!(open_chain(&[layer(folder.path(), Format::Raw)], true), Err(Error::NotAFile { .. })));
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(open_chain(&[layer(&pipe, Format::Raw)], true), Err(Error::NotAFile { .. })));
}

#[test]
fn a_base_that_builds_on_another_image_is_refused_and_above_its_name_is_ignored() {
    let (folder, base, top) = folder_with_layers();
    let mut bytes = std::fs::read(&top).unwrap();
    bytes[15] = 200;
    bytes[19] = 11;
    bytes[200..211].copy_from_slice(b"/etc/passwd");
    let named = folder.path().join("named.qcow2");
    std::fs::write(&named, bytes).unwrap();
    let error = open_chain(&[layer(&named, Format::Qcow2)], true).err().unwrap();
    assert!(matches!(&error, Error::MissingBase { name, .. } if name == "/etc/passwd"), "{error}");
    assert_eq!(inspect(&named, Format::Qcow2).unwrap().backing.unwrap().name, "/etc/passwd");
    let disk = open_chain(&[layer(&base, Format::Raw), layer(&named, Format::Qcow2)], false).unwrap();
    let mut bytes = [1; 512];
    disk.read(&mut [std::io::IoSliceMut::new(&mut bytes)], 0).unwrap();
    assert_eq!(bytes, [0; 512]);
}

#[test]
fn what_is_made_is_private_small_and_replaces_nothing() {
    let (_folder, base, top) = folder_with_layers();
    for path in [&base, &top] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_overlay(path, 1 << 20), Err(Error::Exists { .. })));
    }
    let info = inspect(&top, Format::Qcow2).unwrap();
    assert_eq!(info.virtual_size, 1 << 20);
    assert!(info.allocated_size <= 128 << 10, "{info:?}");
    assert_eq!(inspect(&base, Format::Raw).unwrap().virtual_size, 1 << 20);
    let lost = base.with_file_name("none").join("top.qcow2");
    let refused = create_overlay(&lost, 1 << 20);
    assert!(matches!(refused, Err(Error::Publish { .. })), "{refused:?}");
}
