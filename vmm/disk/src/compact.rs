//! A disk file without what is zero in it: the space goes back to the host.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use snafu::{ResultExt, ensure};
use vmm_sys::file::if_there;

use crate::bytes::{all_zero, index};
use crate::chain::{lock_layer, open_layer};
use crate::copy::Copy;
use crate::error::{CompactSnafu, Error, MissingBaseSnafu, NotAFileSnafu, Qcow2Snafu, SnapshotsSnafu};
use crate::publish::{FileSystem, HostFileSystem};
use crate::qcow2::{Header, Qcow2Image};
use crate::replace::{check_replaceable, make_like, partial_beside, rename_over};
use crate::{DiskImage, FileStorage, Format, Storage};

/// So much is read at once.
const CHUNK: u64 = 2 << 20;
/// No less than so much is given back at once: what file systems keep.
const GRAIN: u64 = 4096;

/// What a disk file takes of the host's disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// Afterwards: never more.
    pub after: u64,
}

/// Gives back to the host what is zero in a disk file, which nobody may be using. A raw file loses it where it lies; a
/// qcow2 image is written anew beside the file, which it then replaces, with what nothing refers to left out.
///
/// At every moment the file is there whole, and shows the same. An image with snapshots of its own is refused.
pub fn compact(path: &Path, format: Format) -> Result<Compacted, Error> {
    // A link stays one.
    let path = &fs::canonicalize(path).context(CompactSnafu { path })?;
    let file = open_layer(path, true)?;
    let metadata = file.metadata().context(CompactSnafu { path })?;
    ensure!(metadata.is_file(), NotAFileSnafu { path });
    let storage = lock_layer(file, path, true)?;
    match format {
        Format::Raw => {
            punch_zeroes(&storage).context(CompactSnafu { path })?;
            let after = allocated(path).context(CompactSnafu { path })?;
            let before = (metadata.blocks() * 512).max(after);
            Ok(Compacted { before, after })
        }
        Format::Qcow2 => rewrite(path, Arc::new(storage)),
    }
}

fn punch_zeroes(storage: &FileStorage) -> io::Result<()> {
    let size = storage.length()?;
    let mut buffer = vec![0; index(CHUNK)];
    let mut at = storage.data_from(0)? / GRAIN * GRAIN;
    while at < size {
        let chunk = &mut buffer[..index(CHUNK.min(size - at))];
        storage.read(&mut [IoSliceMut::new(chunk)], at)?;
        let mut zeroes = 0..0;
        for (number, grain) in (0..).zip(chunk.chunks(index(GRAIN))) {
            let start = at + number * GRAIN;
            if all_zero(grain) {
                zeroes = if zeroes.end == start { zeroes.start } else { start }..start + grain.len() as u64;
            } else if zeroes.end == start && !zeroes.is_empty() {
                storage.write_zeroes(zeroes.start, zeroes.end - zeroes.start, true)?;
            }
        }
        if zeroes.end == at + chunk.len() as u64 && !zeroes.is_empty() {
            storage.write_zeroes(zeroes.start, zeroes.end - zeroes.start, true)?;
        }
        at = storage.data_from(at + chunk.len() as u64)? / GRAIN * GRAIN;
    }
    storage.sync()
}

fn rewrite(path: &Path, storage: Arc<FileStorage>) -> Result<Compacted, Error> {
    check_replaceable(path)?;
    let header = Header::read(&*storage).context(Qcow2Snafu { path })?;
    header.check_writable().context(Qcow2Snafu { path })?;
    ensure!(header.snapshots == 0, SnapshotsSnafu { path });
    if let Some(name) = &header.backing_name {
        return MissingBaseSnafu { path, name: String::from_utf8_lossy(name) }.fail();
    }
    let image = Qcow2Image::open_with(&header, storage, None, true).context(Qcow2Snafu { path })?;
    // Whoever has put it upon another disk sees the same there: what it calls zero stays so. Version 2 cannot say that of
    // a cluster, but stores its zeroes.
    let layout = header.layout();
    let marked = if layout.version < 3 { 0 } else { image.size() };
    let partial = partial_beside(path);
    // The lock is ours, so what is there is of one that died.
    if_there(fs::remove_file(&partial)).context(CompactSnafu { path })?;
    let copy = Copy { source: &image, layers: &image, layout, marked, limit: u64::MAX };
    copy.write_to(&partial, &mut |_| true)?;
    replace(path, &partial).context(CompactSnafu { path }).inspect_err(|_| {
        // The error that matters is the first.
        let _ = HostFileSystem.remove(&partial);
    })
}

/// Puts the new file in the place of the old one, if it takes less.
fn replace(path: &Path, partial: &Path) -> io::Result<Compacted> {
    make_like(path, partial)?;
    let (before, after) = (allocated(path)?, allocated(partial)?);
    if after >= before {
        HostFileSystem.remove(partial)?;
        return Ok(Compacted { before, after: before });
    }
    rename_over(partial, path)?;
    Ok(Compacted { before, after })
}

fn allocated(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LayerSpec, check_layer, create_overlay, create_raw, open_chain};
    use std::fs::Permissions;
    use std::io::IoSlice;
    use std::os::unix::fs::PermissionsExt;

    fn open(path: &Path, format: Format) -> Arc<dyn DiskImage> {
        open_chain(&[LayerSpec { path: path.to_owned(), format }], false).unwrap()
    }

    /// A disk with zeroes written to it, and what it shows.
    fn filled(path: &Path, format: Format) -> Vec<u8> {
        let disk = open(path, format);
        let mut bytes = vec![7; 8 << 20];
        bytes[1 << 20..6 << 20].fill(0);
        bytes[7 << 20..(7 << 20) + 5000].fill(0);
        disk.write(&[IoSlice::new(&bytes)], 4096).unwrap();
        disk.flush().unwrap();
        [vec![0; 4096], bytes, vec![0; (8 << 20) - 4096]].concat()
    }

    fn shown(path: &Path, format: Format) -> Vec<u8> {
        let disk = open(path, format);
        let mut bytes = vec![9; index(disk.size())];
        disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        bytes
    }

    #[test]
    fn a_file_shows_the_same_and_takes_less() {
        let folder = tempfile::tempdir().unwrap();
        for format in [Format::Raw, Format::Qcow2] {
            let path = folder.path().join("disk");
            let make = if format == Format::Raw { create_raw } else { create_overlay };
            make(&path, 16 << 20).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            let bytes = filled(&path, format);
            let Compacted { before, after } = compact(&path, format).unwrap();
            assert!(before >= 8 << 20 && after <= before - (5 << 20), "{before} {after}");
            assert_eq!(after, allocated(&path).unwrap());
            assert!(shown(&path, format) == bytes);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
            let again = compact(&path, format).unwrap();
            assert_eq!((again.before, again.after), (after, after), "{format:?}");
            if format == Format::Qcow2 {
                assert_eq!(check_layer(&path).unwrap().leaks, 0);
            }
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn zeroes_that_hide_a_layer_below_stay() {
        let folder = tempfile::tempdir().unwrap();
        let [base, top] = ["base", "top"].map(|name| folder.path().join(name));
        let bytes = vec![1; 1 << 20];
        fs::write(&base, &bytes).unwrap();
        create_overlay(&top, 1 << 20).unwrap();
        let layers = [
            LayerSpec { path: base, format: Format::Raw },
            LayerSpec { path: top.clone(), format: Format::Qcow2 },
        ];
        let read = || {
            let mut bytes = vec![9; 1 << 20];
            open_chain(&layers, true).unwrap().read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
            bytes
        };
        let disk = open_chain(&layers, false).unwrap();
        disk.write_zeroes(0, 1 << 18, true).unwrap();
        disk.write(&[IoSlice::new(&vec![0; 1 << 18])], 1 << 18).unwrap();
        drop(disk);
        let before = read();
        compact(&top, Format::Qcow2).unwrap();
        assert!(read() == before && all_zero(&before[..1 << 19]) && before[1 << 19..] == bytes[1 << 19..]);
    }

    #[test]
    fn a_file_in_use_is_refused_and_what_a_death_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        create_overlay(&path, 16 << 20).unwrap();
        filled(&path, Format::Qcow2);
        fs::write(folder.path().join("disk.vmm.partial"), "left").unwrap();
        let used = open(&path, Format::Qcow2);
        assert!(matches!(compact(&path, Format::Qcow2), Err(Error::InUse { .. })));
        drop(used);
        compact(&path, Format::Qcow2).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_with_several_names_is_refused_where_another_one_would_take_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["disk", "other"].map(|name| folder.path().join(name));
        create_overlay(&path, 16 << 20).unwrap();
        let bytes = filled(&path, Format::Qcow2);
        fs::hard_link(&path, &other).unwrap();
        let refused = compact(&path, Format::Qcow2).unwrap_err().to_string();
        assert!(refused.contains("is one of 2 names of the same file"), "{refused}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), fs::metadata(&other).unwrap().ino());
        // A raw file loses its zeroes where it lies, by all of its names.
        fs::remove_file(&other).unwrap();
        assert!(compact(&path, Format::Qcow2).is_ok() && shown(&path, Format::Qcow2) == bytes);
        let raw = folder.path().join("raw");
        create_raw(&raw, 16 << 20).unwrap();
        let bytes = filled(&raw, Format::Raw);
        fs::hard_link(&raw, &other).unwrap();
        compact(&raw, Format::Raw).unwrap();
        assert!(shown(&other, Format::Raw) == bytes && fs::metadata(&raw).unwrap().nlink() == 2);
    }

    #[test]
    fn who_opened_a_file_before_it_was_replaced_does_not_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        create_overlay(&path, 16 << 20).unwrap();
        filled(&path, Format::Qcow2);
        let opened = open_layer(&path, true).unwrap();
        compact(&path, Format::Qcow2).unwrap();
        assert!(matches!(lock_layer(opened, &path, true), Err(Error::InUse { .. })));
    }
}
