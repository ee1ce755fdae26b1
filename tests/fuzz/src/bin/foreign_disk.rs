//! A hostile disk in a foreign format (VHD, VMDK, qcow2 with backing files), opened and read as an import does.
//!
//! The input is a file, or changes bytes of a sound one. Nothing may panic, hang, take much memory, or read a file
//! outside of the folder.
#![no_main]

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, Once};

use libfuzzer_sys::fuzz_target;
use vmm_disk::qcow2::{Layout, Qcow2Image};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{DiskImage, open_foreign};
use vmm_fuzz::scratch;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choices, changes)) = bytes.split_first() else { return };
    lay_out_bases();
    let mut file = match choices & 7 {
        0 => vhd(true),
        1 => vhd(false),
        2 => vmdk(),
        3 => qcow2(b"base.qcow2"),
        4 => qcow2(b"base.raw"),
        5 => qcow2(b"disk"),
        _ => changes.to_vec(),
    };
    if choices & 7 < 6 {
        scratch::patch(&mut file, changes);
    }
    if choices & 8 == 0 {
        // Checksums that are right let more of it be believed.
        let end = file.len();
        for (at, length, sum_at) in [(end.saturating_sub(512), 512, 64), (0, 512, 64), (512, 1024, 36)] {
            sum(&mut file, at, length, sum_at);
        }
    }
    let Ok(found) = open_foreign(&scratch::write("disk", &file)) else { return };
    let folder = scratch::folder();
    assert!(found.files.iter().all(|file| file.starts_with(folder)), "{:?}", found.files);
    let disk = found.disk;
    let mut buffer = vec![0; 70_000];
    let mut at = 0;
    for _ in 0..64 {
        let Ok(data) = disk.data_from(at) else { break };
        assert!(data >= at && data <= disk.size());
        let length = (disk.size() - data).min(buffer.len() as u64) as usize;
        if length == 0 {
            break;
        }
        // Whatever it answers is right, so long as it answers.
        let _ = disk.read(&mut [IoSliceMut::new(&mut buffer[..length])], data);
        at = data + length as u64;
    }
});

/// What qcow2 images here build on.
fn lay_out_bases() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        scratch::write("base.raw", &[0x55; 50_000]);
        scratch::write("base.qcow2", &qcow2(b"base.raw"));
    });
}

fn sum(file: &mut [u8], at: usize, length: usize, sum_at: usize) {
    let Some(part) = file.get_mut(at..at + length) else { return };
    if part.starts_with(b"conectix") || part.starts_with(b"cxsparse") {
        part[sum_at..sum_at + 4].fill(0);
        let sum = !part.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        part[sum_at..sum_at + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A VHD of four blocks of 4 KiB, one of which is there; or of 16 KiB as they are.
fn vhd(dynamic: bool) -> Vec<u8> {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
    footer[48..56].copy_from_slice(&(16_u64 << 10).to_be_bytes());
    footer[63] = if dynamic { 3 } else { 2 };
    if !dynamic {
        return [vec![7; 16 << 10], footer].concat();
    }
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&1536_u64.to_be_bytes());
    header[28..32].copy_from_slice(&4_u32.to_be_bytes());
    header[32..36].copy_from_slice(&4096_u32.to_be_bytes());
    let mut table = vec![0xff; 512];
    table[4..8].copy_from_slice(&4_u32.to_be_bytes());
    [footer.clone(), header, table, vec![0xff; 512], vec![7; 4096], footer].concat()
}

/// A VMDK of four grains of 4 KiB, one of which is there.
fn vmdk() -> Vec<u8> {
    let mut file = vec![0; 4 * 512];
    file[..4].copy_from_slice(b"KDMV");
    file[4] = 1;
    for (at, value) in [(12, 32_u64), (20, 8), (28, 1), (36, 1), (56, 2)] {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    file[44..48].copy_from_slice(&4_u32.to_le_bytes());
    let text = b"# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
    file[512..512 + text.len()].copy_from_slice(text);
    file[1024] = 3;
    file[3 * 512 + 4] = 4;
    file.extend([7; 4096]);
    file
}

/// A qcow2 image with something in it that builds on another file.
fn qcow2(backing: &[u8]) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::default());
    let layout = Layout { virtual_size: 200_000, cluster_bits: 12, refcount_order: 4, version: 3 };
    layout.write(&*storage).expect("the layout is possible");
    let disk = Qcow2Image::open(storage.clone(), None, false).expect("it is sound");
    disk.write(&[IoSlice::new(&[7; 5000])], 70_000).expect("it has room");
    drop(disk);
    let mut file = storage.bytes();
    file[8..16].copy_from_slice(&1024_u64.to_be_bytes());
    file[16..20].copy_from_slice(&u32::try_from(backing.len()).expect("a short name").to_be_bytes());
    file[1024..1024 + backing.len()].copy_from_slice(backing);
    file
}
