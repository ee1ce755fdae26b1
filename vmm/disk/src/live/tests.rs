use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::qcow2::Layout;
use crate::testing::MemoryStorage;
use crate::{create_overlay, open_chain};

const SIZE: u64 = 4 << 20;

fn layer(storage: &Arc<MemoryStorage>) -> Layer {
    let storage: Arc<dyn Storage> = storage.clone();
    Layer { storage, path: "layer".into(), format: Format::Qcow2 }
}

fn empty(size: u64) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    Layout::new(size).write(&*storage).unwrap();
    storage
}

/// A disk in memory, and the storage of its top.
fn disk() -> (LiveDisk, Arc<MemoryStorage>) {
    let top = empty(SIZE);
    (LiveDisk::open_layers(vec![layer(&top)]).unwrap(), top)
}

fn switch(disk: &LiveDisk, old: &Arc<MemoryStorage>, new: &Arc<MemoryStorage>) -> Result<(), Error> {
    let old: Arc<dyn Storage> = old.clone();
    disk.switch(layer(new), || Ok(old), &mut || Ok(()))
}

fn put(disk: &dyn DiskImage, value: u8, offset: u64) {
    disk.write(&[IoSlice::new(&[value; 512])], offset).unwrap();
}

fn get(disk: &dyn DiskImage, offset: u64) -> u8 {
    let mut bytes = [0; 512];
    disk.read(&mut [IoSliceMut::new(&mut bytes)], offset).unwrap();
    assert_eq!(bytes, [bytes[0]; 512]);
    bytes[0]
}

#[test]
fn the_old_top_keeps_the_moment_of_the_switch_and_the_disk_goes_on() {
    let (disk, old) = disk();
    put(&disk, 1, 0);
    put(&disk, 1, 1 << 20);
    let new = empty(SIZE);
    switch(&disk, &old, &new).unwrap();
    let kept = old.bytes();
    put(&disk, 2, 0);
    disk.discard(1 << 20, 65536).unwrap();
    disk.flush().unwrap();
    assert_eq!((get(&disk, 0), get(&disk, 512)), (2, 0));
    drop(disk);
    assert_eq!(old.bytes(), kept, "nobody wrote to it any more");
    let before = open_chain_layers(vec![layer(&old)], true).unwrap();
    assert_eq!([get(&*before, 0), get(&*before, 1 << 20)], [1, 1]);
    let after = open_chain_layers(vec![layer(&old), layer(&new)], true).unwrap();
    assert_eq!(get(&*after, 0), 2);
    assert!(crate::qcow2::check(&*old).unwrap().findings.is_empty());
}

#[test]
fn nothing_that_is_written_meanwhile_is_lost_or_on_both_sides() {
    let (disk, old) = disk();
    let new = empty(SIZE);
    let over = AtomicBool::new(false);
    // Each writer counts up in a place of its own, so whatever is there is the last that was answered.
    let written: Vec<u8> = thread::scope(|scope| {
        let writers: Vec<_> = (0..4_u64)
            .map(|place| {
                let (disk, over) = (&disk, &over);
                scope.spawn(move || {
                    let mut value = 0;
                    while !over.load(Ordering::SeqCst) && value < 250 {
                        value += 1;
                        put(disk, value, place * 65536);
                        assert_eq!(get(disk, place * 65536), value);
                    }
                    value
                })
            })
            .collect();
        switch(&disk, &old, &new).unwrap();
        let frozen = old.bytes();
        put(&disk, 9, 3 << 20);
        over.store(true, Ordering::SeqCst);
        let written = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        assert_eq!(old.bytes(), frozen);
        written
    });
    drop(disk);
    let after = open_chain_layers(vec![layer(&old), layer(&new)], true).unwrap();
    let before = open_chain_layers(vec![layer(&old)], true).unwrap();
    for (place, last) in (0..).zip(written) {
        assert_eq!(get(&*after, place * 65536), last);
        assert!(get(&*before, place * 65536) <= last);
    }
    assert_eq!([get(&*before, 3 << 20), get(&*after, 3 << 20)], [0, 9]);
}

#[test]
fn a_switch_that_fails_leaves_the_disk_as_it_was() {
    let (disk, old) = disk();
    put(&disk, 1, 0);
    // What is not empty, or of another size.
    let full = empty(SIZE);
    put(&*open_chain_layers(vec![layer(&full)], false).unwrap(), 7, 0);
    assert!(matches!(switch(&disk, &old, &full), Err(Error::NotEmpty { .. })));
    assert!(matches!(switch(&disk, &old, &empty(SIZE * 2)), Err(Error::NotEmpty { .. })));
    // What cannot be recorded.
    let new = empty(SIZE);
    let untouched = new.bytes();
    let again: Arc<dyn Storage> = old.clone();
    let refused = disk.switch(layer(&new), || Ok(again), &mut || Err("the disk is full".into()));
    assert!(matches!(refused, Err(Error::Record { .. })));
    // An old top that cannot be opened again.
    let none = || Err(Error::NoLayers);
    assert!(matches!(disk.switch(layer(&new), none, &mut || panic!("too early")), Err(Error::NoLayers)));
    put(&disk, 2, 512);
    disk.flush().unwrap();
    assert_eq!([get(&disk, 0), get(&disk, 512)], [1, 2]);
    assert_eq!(new.bytes(), untouched);
    // And the next one succeeds.
    switch(&disk, &old, &new).unwrap();
    put(&disk, 3, 0);
    assert_eq!([get(&disk, 0), get(&disk, 512)], [3, 2]);
}

#[test]
fn a_sync_that_fails_ends_the_switch_before_anything_is_recorded() {
    let (disk, old) = disk();
    put(&disk, 1, 0);
    old.fail_next_sync();
    let again: Arc<dyn Storage> = old.clone();
    let refused = disk.switch(layer(&empty(SIZE)), || Ok(again), &mut || panic!("it was not to be recorded"));
    assert!(matches!(refused, Err(Error::Settle { .. })));
    // As after every failed sync: what was written can be read, and nothing is promised any more.
    assert_eq!(get(&disk, 0), 1);
    assert!(disk.flush().is_err());
}

fn file(path: &Path, writable: bool) -> File {
    File::options().read(true).write(writable).open(path).unwrap()
}

#[test]
fn files_are_locked_by_what_is_done_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new, other] = ["old", "new", "other"].map(|name| folder.path().join(name));
    for path in [&old, &new, &other] {
        create_overlay(path, SIZE).unwrap();
    }
    let spec = |path: &Path| LayerSpec { path: path.to_owned(), format: Format::Qcow2 };
    let disk = LiveDisk::open(&[spec(&old)]).unwrap().unwrap();
    put(&disk, 1, 0);
    let next = || LayerFile { file: file(&new, true), path: new.clone(), format: Format::Qcow2 };
    // A descriptor of another file than the top.
    let refused = disk.switch_to_file(next(), file(&other, false), &mut || Ok(()));
    assert!(matches!(refused, Err(Error::OtherTop { .. })));
    // A new top that somebody has.
    let taken = open_chain(&[spec(&new)], false).unwrap();
    let refused = disk.switch_to_file(next(), file(&old, false), &mut || Ok(()));
    assert!(matches!(refused, Err(Error::InUse { .. })));
    drop(taken);
    // One that is the top itself, or open for reading only.
    let itself = LayerFile { file: file(&old, true), path: old.clone(), format: Format::Qcow2 };
    assert!(disk.switch_to_file(itself, file(&old, false), &mut || Ok(())).is_err());
    // After a failure it is ours alone again.
    let refused = disk.switch_to_file(next(), file(&old, false), &mut || Err("no".into()));
    assert!(matches!(refused, Err(Error::Record { .. })));
    assert!(matches!(open_chain(&[spec(&old)], true), Err(Error::InUse { .. })));

    disk.switch_to_file(next(), file(&old, false), &mut || Ok(())).unwrap();
    assert_eq!(disk.top(), new);
    put(&disk, 2, 0);
    let before = open_chain(&[spec(&old)], true).unwrap();
    assert_eq!(get(&*before, 0), 1);
    assert!(matches!(open_chain(&[spec(&old)], false), Err(Error::InUse { .. })));
    assert!(matches!(open_chain(&[spec(&old), spec(&new)], true), Err(Error::InUse { .. })));
    // It can be switched again.
    let last = LayerFile { file: file(&other, true), path: other.clone(), format: Format::Qcow2 };
    disk.switch_to_file(last, file(&new, false), &mut || Ok(())).unwrap();
    assert_eq!(get(&disk, 0), 2);
    drop((disk, before));
    assert_eq!(get(&*open_chain(&[spec(&old), spec(&new), spec(&other)], false).unwrap(), 0), 2);
}

#[test]
fn a_disk_whose_top_is_raw_is_none_that_can_be_switched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    crate::create_raw(&path, SIZE).unwrap();
    assert!(LiveDisk::open(&[LayerSpec { path, format: Format::Raw }]).unwrap().is_none());
}
