//! A hostile qcow2 image, opened, checked, and used by a guest.
//!
//! The input holds the image and what the guest does. Nothing may panic, hang, take much memory, or write past what
//! the storage holds; an image that our own check calls sound must stay so.
#![no_main]

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmm_disk::qcow2::{Layout, Qcow2Image, check};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{DiskImage, RawImage};

/// No image grows beyond this, as on a small disk.
const CAPACITY: u64 = 1 << 20;
/// No request is longer.
const LONGEST: u64 = 1 << 18;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choices, rest)) = bytes.split_first() else { return };
    let Some((&count, rest)) = rest.split_first() else { return };
    let Some((deeds, changes)) = rest.split_at_checked(usize::from(count) * 6) else { return };
    let image = if choices & 1 == 0 { changes.to_vec() } else { patched(choices, changes) };

    let storage = Arc::new(MemoryStorage::new(image));
    storage.limit(Some(CAPACITY));
    let before = check(&*storage);
    let was_sound = before.is_ok_and(|report| report.corruptions == 0);
    let base: Option<Arc<dyn DiskImage>> = (choices & 2 != 0).then(|| {
        let base = RawImage::open(Arc::new(MemoryStorage::new(vec![0x55; 50_000])), true);
        Arc::new(base.expect("a raw image opens")) as Arc<dyn DiskImage>
    });
    let Ok(disk) = Qcow2Image::open(storage.clone(), base, choices & 4 != 0) else { return };
    for deed in deeds.chunks_exact(6) {
        act(&disk, deed);
    }
    drop(disk);
    if was_sound {
        let report = check(&*storage).expect("it was checked before");
        assert_eq!(report.corruptions, 0, "{:?}", report.findings);
    }
});

/// A sound image, with some bytes of it changed: what random bytes would never come to.
fn patched(choices: u8, changes: &[u8]) -> Vec<u8> {
    let (cluster_bits, virtual_size) = if choices & 8 != 0 { (9, 200_000) } else { (12, 4 << 20) };
    let version = if choices & 16 != 0 { 2 } else { 3 };
    let storage = Arc::new(MemoryStorage::default());
    let layout = Layout { virtual_size, cluster_bits, refcount_order: 4, version };
    layout.write(&*storage).expect("the layout is possible");
    let disk = Qcow2Image::open(storage.clone(), None, false).expect("it is sound");
    for place in [0, 3000, 70_000, 190_000] {
        disk.write(&[IoSlice::new(&[7; 1000])], place).expect("it has room");
    }
    drop(disk);
    let mut image = storage.bytes();
    for change in changes.chunks_exact(4) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % image.len();
        let end = image.len().min(place + 2);
        image[place..end].copy_from_slice(&change[2..2 + end - place]);
    }
    image
}

fn act(disk: &Qcow2Image, deed: &[u8]) {
    let size = disk.size();
    // Where something is likely, or anywhere.
    let place = u64::from(u16::from_le_bytes([deed[1], deed[2]]));
    let offset = if deed[0] & 0x80 == 0 { place << 4 } else { place.wrapping_mul(size / 65535) };
    let length = (u64::from(u16::from_le_bytes([deed[3], deed[4]])) << 2).min(LONGEST);
    let mut buffer = vec![deed[5]; length as usize];
    // Whatever it answers is right, so long as it answers.
    let _ = match deed[0] & 7 {
        0 | 1 => disk.read(&mut [IoSliceMut::new(&mut buffer)], offset),
        2 | 3 => disk.write(&[IoSlice::new(&buffer)], offset),
        4 => disk.discard(offset, length << (deed[5] & 15)),
        5 => disk.write_zeroes(offset, length, true),
        6 => disk.write_zeroes(offset, length, false),
        _ => disk.flush(),
    };
    if length > 0
        && let Ok(extent) = disk.extent(offset, length)
    {
        assert!((1..=length).contains(&extent.length), "{extent:?} of {length}");
    }
    if let Ok(data) = disk.data_from(offset) {
        assert!(data >= offset.min(size) && data <= size);
    }
}
