//! What engines found out and need not find out again: files in the home's cache.

use std::fs;
use std::io;
use std::path::Path;

/// Writes a file, and its folder where that is missing. Not synced: a torn file is not understood, and written again.
pub(super) fn write(file: &Path, contents: impl AsRef<[u8]>) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&partial, contents)?;
    fs::rename(&partial, file)
}

/// What is another one after each boot of the host.
pub(super) fn boot_id() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(boot.trim().to_owned())
}
