//! Small files in the shape of kernels, for the tests of this module and of `image`.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// An ELF file for x86_64 with one segment, a PVH note in it, and a banner of this release.
pub(crate) fn elf_kernel(release: &str) -> Vec<u8> {
    let mut notes = Vec::new();
    // A note of another name space and an odd length comes first, as in real kernels.
    note(&mut notes, b"Linux\0", 257, &[0]);
    note(&mut notes, b"Xen\0", 18, &(LOAD_ADDRESS + 0x10).to_le_bytes());
    let banner = format!("Linux version {release} (tester) #1\n\0");
    let notes_at = 64 + 2 * 56;
    let total = (notes_at + notes.len() + banner.len()) as u64;
    let mut elf = Vec::new();
    elf.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend([2_u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1_u32.to_le_bytes());
    elf.extend([LOAD_ADDRESS, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    // All of the file is loaded; the notes are part of that.
    program_header(&mut elf, 1, [0, 0, LOAD_ADDRESS, total, total + 0x1000, 0x1000]);
    let (at, length) = (notes_at as u64, notes.len() as u64);
    program_header(&mut elf, 4, [at, 0, LOAD_ADDRESS + at, length, length, 4]);
    elf.extend(notes);
    elf.extend(banner.as_bytes());
    elf
}

/// Where the segment of [`elf_kernel`] is loaded.
pub(crate) const LOAD_ADDRESS: u64 = 0x100_0000;

fn program_header(elf: &mut Vec<u8>, kind: u32, words: [u64; 6]) {
    elf.extend([kind, 5].map(u32::to_le_bytes).concat());
    elf.extend(words.map(u64::to_le_bytes).concat());
}

fn note(notes: &mut Vec<u8>, name: &[u8], kind: u32, value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    notes.extend([length(name), length(value), kind].map(u32::to_le_bytes).concat());
    for part in [name, value] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// A bzImage around some kernel.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    file.extend([0x90; 16]);
    file.extend(payload);
    file.extend([0; 32]);
    file
}

/// An arm64 `Image` with a banner of this release.
pub(crate) fn image_kernel(release: &str) -> Vec<u8> {
    let banner = format!("Linux version {release} (tester) #1\n\0");
    let mut image = vec![0; 64];
    image.extend(banner.as_bytes());
    let length = image.len() as u64;
    image[16..24].copy_from_slice(&(length + 0x1000).to_le_bytes());
    image[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// An EFI zboot file around some kernel.
pub(crate) fn zboot(payload: &[u8], method: &str) -> Vec<u8> {
    let mut file = vec![0; 128];
    file[..8].copy_from_slice(b"MZ\0\0zimg");
    file[8..12].copy_from_slice(&128_u32.to_le_bytes());
    file[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    file[24..24 + method.len()].copy_from_slice(method.as_bytes());
    file[56..60].copy_from_slice(&[0xcd, 0x23, 0x82, 0x81]);
    file.extend(payload);
    file
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
