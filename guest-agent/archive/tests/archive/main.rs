//! Trees that are packed and unpacked again, archives of other tools, and archives of enemies.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod foreign;
mod hostile;
mod places;
mod round_trip;

use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use vmm_archive::{Error, Holds, PackOptions, Packer, Place, UnpackOptions, Unpacked, root_name, unpack};

/// Packs a path as it would be copied.
fn packed(path: &Path) -> Vec<u8> {
    packed_with(path, PackOptions::default())
}

fn packed_with(path: &Path, options: PackOptions) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), options);
    packer.add(path, &root_name(path)).unwrap();
    packer.finish().unwrap().0
}

/// Unpacks into a path and puts everything in its place.
fn unpacked(archive: &[u8], path: &Path, holds: Holds, options: UnpackOptions) -> Result<Counts, Error> {
    let unpacked: Unpacked = unpack(Cursor::new(archive), Place::find(path, holds)?, options)?;
    let counts = Counts { entries: unpacked.entries, set_id_taken: unpacked.set_id_taken };
    unpacked.commit()?;
    Ok(counts)
}

/// What was counted.
struct Counts {
    entries: u64,
    set_id_taken: u64,
}

/// All that a tree is: a line for each file, without the time of what `times` leaves out.
fn listing(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    list(path, b".", &mut lines);
    lines
}

fn list(path: &Path, name: &[u8], lines: &mut Vec<String>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let contents = if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if kind.is_file() {
        let bytes = fs::read(path).unwrap();
        let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        format!("{} bytes {sum:x}", bytes.len())
    } else if kind.is_fifo() {
        "pipe".to_owned()
    } else {
        "folder".to_owned()
    };
    lines.push(format!(
        "{:?} {:o} {}.{:09} links {} {contents}",
        std::ffi::OsStr::from_bytes(name),
        metadata.mode(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        if kind.is_dir() { 0 } else { metadata.nlink() },
    ));
    if kind.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap()).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = [name, b"/", entry.file_name().as_bytes()].concat();
            list(&entry.path(), &name, lines);
        }
    }
}

/// The names in a folder.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
