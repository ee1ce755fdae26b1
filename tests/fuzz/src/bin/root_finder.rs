//! A hostile disk with partitions and a file system, looked through for a system and its kernels, as an import does.
//!
//! The input changes bytes of a disk with a root in its second partition, or is the disk. Nothing may panic, hang, or
//! take much memory.
#![no_main]

use std::io::Read;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vmm::image::fuzzing::{ROOT, find_system};
use vmm_disk::testing::MemoryStorage;
use vmm_disk::{DiskImage, RawImage, partitions};
use vmm_fuzz::scratch;

/// Where the root begins.
const START: usize = 64 * 512;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choices, changes)) = bytes.split_first() else { return };
    let mut disk = match choices & 3 {
        0 => changes.to_vec(),
        1 => sample()[START..].to_vec(),
        _ => sample().to_vec(),
    };
    if choices & 3 != 0 {
        scratch::patch(&mut disk, changes);
    }
    let size = disk.len() as u64;
    let disk = RawImage::open(Arc::new(MemoryStorage::new(disk)), true).expect("a raw image opens");
    let disk: Arc<dyn DiskImage> = Arc::new(disk);
    if let Ok(table) = partitions(&*disk) {
        for found in table.partitions() {
            assert!(found.length > 0 && found.start + found.length <= size);
        }
    }
    find_system(&disk);
});

/// A disk with an MBR and a root file system.
fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut root = Vec::new();
        flate2::read::GzDecoder::new(ROOT).read_to_end(&mut root).expect("it is packed with gzip");
        let mut disk = vec![0; START];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let sectors = u32::try_from(root.len() / 512).expect("a small file system");
        for (entry, start, length) in [(0, 8_u32, 8_u32), (1, 64, sectors)] {
            let entry = &mut disk[446 + entry * 16..][..16];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..16].copy_from_slice(&length.to_le_bytes());
        }
        disk.extend(root);
        disk
    })
}
