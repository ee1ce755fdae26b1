//! A hostile archive, or something compressed: listed, and every file taken out of it.
//!
//! Nothing may panic, hang, take much memory, or make more than it is allowed. Tar archives get their checksums made
//! right, or nothing in them would be believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::image::fuzzing::unpack;
use vmm_fuzz::scratch;

fuzz_target!(|bytes: &[u8]| {
    let Some((&choices, rest)) = bytes.split_first() else { return };
    let mut file = rest.to_vec();
    if choices & 1 != 0 {
        for header in file.chunks_exact_mut(512) {
            sum(header, choices & 2 != 0);
        }
    }
    unpack(&scratch::write("archive", &file), &scratch::folder().join("member"));
});

/// Makes the checksum of a tar header right; with `mark` it becomes one.
fn sum(header: &mut [u8], mark: bool) {
    if mark && header[0] != 0 {
        header[257..262].copy_from_slice(b"ustar");
    }
    if &header[257..262] == b"ustar" {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    }
}
