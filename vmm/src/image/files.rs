//! What the store does to files and folders, each step with its error: private to their owner, and never complete by
//! name before they are complete on the disk.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use snafu::ResultExt;
use vmm_sys::file::if_there;

use super::error::{ExistsSnafu, Result, StorageSnafu, TooLargeSnafu};

/// Makes a folder and those above it, for their owner alone, unless they are there.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    step(path)
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(path))
        .context(StorageSnafu { action: "make the folder", path })
}

/// Makes a file that is not there yet, for its owner alone.
pub(super) fn create(path: &Path) -> Result<File> {
    step(path)
        .and_then(|()| File::options().read(true).write(true).create_new(true).mode(0o600).open(path))
        .context(StorageSnafu { action: "make the file", path })
}

/// Makes a file that is not there yet, with these contents, and sees them on the disk.
pub(crate) fn write_new(path: &Path, contents: &[u8]) -> Result<()> {
    let file = create_with(path, contents)?;
    sync(&file, path)
}

/// Makes a file that is not there yet, with these contents, which a power cut may lose.
pub(super) fn write_unsynced(path: &Path, contents: &[u8]) -> Result<()> {
    create_with(path, contents).map(drop)
}

fn create_with(path: &Path, contents: &[u8]) -> Result<File> {
    let mut file = create(path)?;
    step(path).and_then(|()| file.write_all(contents)).context(StorageSnafu { action: "write", path })?;
    Ok(file)
}

/// Sees the contents of a file on the disk.
pub(super) fn sync(file: &File, path: &Path) -> Result<()> {
    step(path).and_then(|()| file.sync_all()).context(StorageSnafu { action: "sync", path })
}

/// Sees the names in a folder on the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    step(path)
        .and_then(|()| File::open(path)?.sync_all())
        .context(StorageSnafu { action: "sync the folder", path })
}

/// Gives a file or folder another name, and sees that on the disk.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_unsynced(from, to)?;
    to.parent().map_or(Ok(()), sync_folder)
}

/// Gives a file a name that nothing has yet, which a power cut may undo.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match step(to).and_then(|()| vmm_sys::file::rename_new(from, to)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => ExistsSnafu { path: to }.fail(),
        renamed => renamed.context(StorageSnafu { action: "rename to", path: to }),
    }
}

/// Gives a file or folder another name, which a power cut may undo.
pub(super) fn rename_unsynced(from: &Path, to: &Path) -> Result<()> {
    step(to).and_then(|()| fs::rename(from, to)).context(StorageSnafu { action: "rename to", path: to })
}

/// Lets two files or folders swap their names in one step, and sees that on the disk.
pub(super) fn exchange(one: &Path, other: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    step(other)
        .and_then(|()| Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?))
        .context(StorageSnafu { action: "replace", path: other })?;
    other.parent().map_or(Ok(()), sync_folder)
}

/// Gives a file a second name; where that cannot be, a copy has it.
pub(super) fn share(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_folder(parent)?;
    }
    let copy = |_| fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
    step(to)
        .and_then(|()| fs::hard_link(from, to).or_else(copy))
        .context(StorageSnafu { action: "copy to", path: to })
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    if_there(step(path).and_then(|()| fs::remove_file(path))).context(StorageSnafu { action: "remove", path })
}

/// Removes a folder with everything in it, if it is there.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    if_there(step(path).and_then(|()| fs::remove_dir_all(path)))
        .context(StorageSnafu { action: "remove", path })
}

/// Reads a whole file, if it is there and of a sane size.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let storage = StorageSnafu { action: "read", path };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(storage),
    };
    let mut contents = Vec::new();
    file.take(limit + 1).read_to_end(&mut contents).context(storage)?;
    if contents.len() as u64 > limit {
        return TooLargeSnafu { what: path.display().to_string(), limit }.fail();
    }
    Ok(Some(contents))
}

/// The names in a folder, in order; none if the folder is not there. Names that are no UTF-8 are none of ours.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let storage = StorageSnafu { action: "read the folder", path: folder };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(storage),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context(storage)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// How many bytes of the disk a file takes, or a folder with all that is in it. What goes meanwhile takes none.
pub(super) fn allocated(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| allocated(&entry.path())).sum::<u64>()
}

/// Where something is made before it gets its name.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

/// Where something is made that others may be making too, other threads among them: each has a place of its own.
pub(super) fn own_partial_of(path: &Path) -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{}-{}{PARTIAL}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

/// The end of the names of what is not complete.
pub(crate) const PARTIAL: &str = ".partial";

/// Each step above passes here; the tests let the process "die" at any of them.
#[cfg(not(test))]
fn step(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use death::step;

/// A process that dies: from a chosen step on, no step of this thread has an effect any more.
#[cfg(test)]
pub(super) mod death {
    use std::cell::Cell;
    use std::io;
    use std::path::Path;

    thread_local! {
        static STEPS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn step(path: &Path) -> io::Result<()> {
        STEPS_LEFT.with(|left| match left.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other(format!("died before {}", path.display()))),
            Some(count) => {
                left.set(Some(count - 1));
                Ok(())
            }
        })
    }

    /// Runs something that dies after so many steps. `None`: it ended without dying.
    pub(in crate::image) fn after<T>(steps: usize, run: impl FnOnce() -> T) -> Option<T> {
        STEPS_LEFT.with(|left| left.set(Some(steps)));
        let result = run();
        let left = STEPS_LEFT.with(Cell::take);
        (left != Some(0)).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_the_store_makes_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        make_folder(&folder).unwrap();
        write_new(&folder.join("file"), b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode(&home.path().join("a")), mode(&folder), mode(&folder.join("file"))],
            [0o700, 0o700, 0o600]
        );
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read(&path, 10).is_err());
        assert_eq!(read(&path, 11).unwrap().unwrap().len(), 11);
        assert_eq!(read(&home.path().join("none"), 11).unwrap(), None);
    }
}
