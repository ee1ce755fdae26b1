//! A hostile tar archive, unpacked as the host unpacks what a guest sends, and as a guest unpacks what it is sent.
//!
//! Nothing may panic, hang or take much memory; nothing beside the target may change, and of an archive that is refused
//! nothing may be left. Checksums are made right, or nothing in it would be believed.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vmm_archive::{Holds, Owner, Place, UnpackOptions, unpack};
use vmm_fuzz::scratch;

/// What the names of things end with that are not in their place yet.
const PARTIAL: &str = ".partial";

fuzz_target!(|bytes: &[u8]| {
    let Some((&choices, rest)) = bytes.split_first() else { return };
    let mut archive = rest.to_vec();
    if choices & 1 != 0 {
        archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    }
    // A member of that name would be taken for something that was left.
    if archive.windows(PARTIAL.len()).any(|bytes| bytes == PARTIAL.as_bytes()) {
        return;
    }
    let mut headers = 0;
    for header in archive.chunks_exact_mut(512).filter(|block| block[0] != 0) {
        headers += 1;
        sum(header);
    }
    if headers > 64 {
        return;
    }
    let scene = scratch::folder().join("scene");
    let _ = fs::remove_dir_all(&scene);
    fs::create_dir_all(scene.join("target/folder")).expect("a folder");
    fs::create_dir(scene.join("outside")).expect("a folder");
    fs::write(scene.join("target/file"), "there").expect("a file");
    std::os::unix::fs::symlink("../outside", scene.join("target/link")).expect("a link");
    let (path, holds) = match choices >> 1 & 3 {
        0 => ("target", Holds::Anything),
        1 => ("new", Holds::Anything),
        2 => ("target", Holds::Several),
        _ => ("new", Holds::One),
    };
    let options =
        UnpackOptions { owner: Owner::Us, set_id: choices & 8 != 0, devices: false, max_entries: None };
    let place = Place::find(&scene.join(path), holds).expect("a place that is there");
    let place = if choices & 16 != 0 { place.with_roots(vec![b"file".to_vec(), b"a".to_vec()]) } else { place };
    let unpacked = unpack(&archive[..], place, options);
    let refused = unpacked.is_err();
    if let Ok(unpacked) = unpacked {
        let _ = unpacked.commit();
    }
    let left = names(&scene);
    assert!(left.iter().all(|name| ["outside", "target", "new"].contains(&name.as_str())), "{left:?}");
    assert!(!refused || !left.contains(&"new".to_owned()), "something is left of what was refused");
    assert!(names(&scene.join("outside")).is_empty(), "something went outside");
    assert!(names(&scene.join("target")).iter().all(|name| !name.ends_with(PARTIAL)));
});

/// What is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Makes the checksum of a header right.
fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
}
