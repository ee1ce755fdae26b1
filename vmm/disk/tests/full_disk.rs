//! A full disk is an error for whoever writes; the overlay stays sound, and works on once there is room.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod kit;

use std::io::{ErrorKind, IoSlice};
use std::process::Command;
use std::sync::Arc;

use kit::{Operation, assert_same, read};
use proptest::prelude::*;
use vmm_disk::qcow2::{Layout, Qcow2Image, check};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{DiskImage, Format, LayerSpec, RawImage, Storage, check_layer, create_overlay, open_chain};

const SIZE: u64 = 200_000;

fn open(storage: &Arc<MemoryStorage>) -> Qcow2Image {
    let base: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![0x77; SIZE as usize / 2]));
    let base = RawImage::open(base, true).unwrap();
    Qcow2Image::open(storage.clone(), Some(Arc::new(base)), false).unwrap()
}

/// Where `new` wrote `operation` in part, and left the rest: each byte is the old or the new one.
fn assert_old_or_new(old: &[u8], new: &[u8], shown: &[u8], what: &str) {
    for (at, byte) in shown.iter().enumerate() {
        assert!(*byte == old[at] || *byte == new[at] || *byte == 0, "{what}: byte {at:#x} is {byte:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_write_fails_the_overlay_stays_sound_and_usable(
        cluster_bits in prop_oneof![Just(9_u32), Just(12)],
        before in prop::collection::vec(Operation::strategy(SIZE, 4096), 0..8),
        failing in prop::collection::vec((Operation::strategy(SIZE, 4096), 0..6_u64), 1..12),
        after in prop::collection::vec(Operation::strategy(SIZE, 4096), 1..8),
    ) {
        let storage = Arc::new(MemoryStorage::default());
        Layout { virtual_size: SIZE, cluster_bits, refcount_order: 4, version: 3 }.write(&*storage).unwrap();
        let disk = open(&storage);
        let mut model = read(&disk, 0, SIZE);
        for operation in before {
            operation.apply(&disk).unwrap();
            operation.apply_to_model(&mut model, &disk);
        }
        for (operation, writes) in failing {
            storage.fail_writes_after(Some(writes));
            let done = operation.apply(&disk);
            storage.fail_writes_after(None);
            match done {
                Ok(()) => operation.apply_to_model(&mut model, &disk),
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::StorageFull);
                    let old = model.clone();
                    if !matches!(operation, Operation::Discard { .. }) {
                        operation.apply_to_model(&mut model, &disk);
                    }
                    let shown = read(&disk, 0, SIZE);
                    assert_old_or_new(&old, &model, &shown, "after a failure");
                    model = shown;
                }
            }
            // A power cut now, all written back: sound, though clusters may be leaked.
            let report = check(&*storage).unwrap();
            prop_assert_eq!(report.corruptions, 0, "{:?}", report.findings);
        }
        disk.flush().unwrap();
        for operation in after {
            operation.apply(&disk).unwrap();
            operation.apply_to_model(&mut model, &disk);
        }
        assert_same(&model, &read(&disk, 0, SIZE), "used on");
        drop(disk);
        let report = check(&*storage).unwrap();
        prop_assert_eq!(report.corruptions, 0, "{:?}", report.findings);
        assert_same(&model, &read(&open(&storage), 0, SIZE), "opened again");
    }
}

#[test]
fn a_write_that_does_not_fit_leaks_nothing() {
    let storage = Arc::new(MemoryStorage::default());
    Layout { virtual_size: SIZE, cluster_bits: 12, refcount_order: 4, version: 3 }.write(&*storage).unwrap();
    let disk = open(&storage);
    disk.write(&[IoSlice::new(&[1; 4096])], 0).unwrap();
    storage.limit(Some(storage.bytes().len() as u64));
    for _ in 0..10 {
        let error = disk.write(&[IoSlice::new(&[2; 8192])], 8192).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    disk.flush().unwrap();
    disk.discard(0, 4096).unwrap();
    disk.flush().unwrap();
    disk.write(&[IoSlice::new(&[3; 4096])], 8192).unwrap();
    drop(disk);
    let report = check(&*storage).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
    assert_eq!(read(&open(&storage), 8192, 4096), vec![3; 4096], "the discarded cluster made room");
}

#[test]
fn after_a_failed_sync_nothing_is_promised_and_nothing_written() {
    let storage = Arc::new(MemoryStorage::default());
    Layout { virtual_size: SIZE, cluster_bits: 12, refcount_order: 4, version: 3 }.write(&*storage).unwrap();
    let disk = open(&storage);
    disk.write(&[IoSlice::new(&[1; 4096])], 0).unwrap();
    storage.fail_next_sync();
    assert!(disk.flush().is_err());
    assert!(disk.flush().is_err(), "a sync that succeeds later proves nothing");
    assert!(disk.write(&[IoSlice::new(&[1; 4096])], 0).is_err());
    assert!(disk.discard(0, 4096).is_err());
    assert_eq!(read(&disk, 0, 4096), vec![1; 4096]);
    drop(disk);
    assert_eq!(check(&*storage).unwrap().corruptions, 0);
}

/// A small file system of the host, which goes when the test ends.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            Some(Self(folder))
        } else {
            println!("skipped: no file system can be mounted here (needs root)");
            None
        }
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_of_the_host_is_an_error_until_there_is_room() {
    let Some(file_system) = SmallFileSystem::mount("4m") else { return };
    let path = file_system.0.path().join("top.qcow2");
    create_overlay(&path, 64 << 20).unwrap();
    let layers = [LayerSpec { path: path.clone(), format: Format::Qcow2 }];
    let disk = open_chain(&layers, false).unwrap();
    let mut written = 0;
    let error = loop {
        match disk.write(&[IoSlice::new(&[5; 1 << 18])], written) {
            Ok(()) => written += 1 << 18,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(written >= 3 << 20);
    disk.flush().unwrap();
    disk.discard(0, 1 << 20).unwrap();
    disk.flush().unwrap();
    disk.write(&[IoSlice::new(&[6; 1 << 18])], 32 << 20).unwrap();
    drop(disk);
    let report = check_layer(&path).unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{:?}", report.findings);
    let disk = open_chain(&layers, true).unwrap();
    assert_eq!(read(&*disk, 32 << 20, 1 << 18), vec![6; 1 << 18]);
    assert_eq!(read(&*disk, 1 << 20, written - (1 << 20)), vec![5; (written - (1 << 20)) as usize]);

    let overlay = file_system.0.path().join("second.qcow2");
    std::fs::write(file_system.0.path().join("filler"), vec![1; 4 << 20]).unwrap_err();
    assert!(create_overlay(&overlay, 1 << 40).is_err());
    let names: Vec<_> =
        std::fs::read_dir(file_system.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing half-made is left: {names:?}");
}
