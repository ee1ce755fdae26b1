//! A folder of a fuzzer's own, in memory where that is possible: what reads files is given files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of this process.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("vmm-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for files");
        folder
    })
}

/// Writes a file in it.
pub fn write(name: &str, contents: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, contents).expect("a file can be written");
    path
}

/// Changes bytes: each change is a place (3 bytes, of which only some are used), and a byte.
pub fn patch(file: &mut [u8], changes: &[u8]) {
    for change in changes.chunks_exact(4) {
        let place = usize::from(change[0]) | usize::from(change[1]) << 8 | usize::from(change[2]) << 16;
        let place = place % file.len().max(1);
        if let Some(byte) = file.get_mut(place) {
            *byte = change[3];
        }
    }
}
