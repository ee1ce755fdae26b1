//! Making a file that is there whole or not at all, whatever happens meanwhile.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snafu::{IntoError, ResultExt};

use crate::error::{Error, ExistsSnafu, PublishSnafu};
use crate::{FileStorage, Storage};

/// The few operations on a folder that making a file needs. It is a seam for recorders, like [`Storage`].
pub trait FileSystem {
    /// Creates a file that only its owner may use; fails if it is there.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Storage>>;
    /// Renames a file; fails with [`io::ErrorKind::AlreadyExists`] if something has the new name.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names in a folder survive a power cut.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The host's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFileSystem;

impl FileSystem for HostFileSystem {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Storage>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        match FileStorage::exclusive(file)? {
            Some(storage) => Ok(Arc::new(storage)),
            None => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        vmm_sys::file::rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// Makes the file at `path` with what `write` puts into it: as `….partial`, synced, renamed, the folder synced.
///
/// When it returns without an error, the file survives a power cut; otherwise, and at every moment in between, there
/// is no file of that name. A `.partial` file that a crash left behind may be removed by anybody.
pub fn publish(
    file_system: &dyn FileSystem,
    path: &Path,
    write: impl FnOnce(&dyn Storage) -> io::Result<()>,
) -> Result<(), Error> {
    let wrong_name = || PublishSnafu { what: "name", path }.into_error(io::ErrorKind::InvalidFilename.into());
    let name = path.file_name().ok_or_else(wrong_name)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (partial, storage) = create_partial(file_system, folder, name)?;
    let made = write(&*storage)
        .and_then(|()| storage.sync())
        .context(PublishSnafu { what: "write", path })
        .and_then(|()| match file_system.rename_new(&partial, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => ExistsSnafu { path }.fail(),
            renamed => renamed.context(PublishSnafu { what: "rename to", path }),
        });
    if made.is_err() {
        // The error that matters is the first.
        let _ = file_system.remove(&partial);
        return made;
    }
    file_system.sync_folder(folder).context(PublishSnafu { what: "sync the folder of", path })
}

fn create_partial(
    file_system: &dyn FileSystem,
    folder: &Path,
    name: &std::ffi::OsStr,
) -> Result<(PathBuf, Arc<dyn Storage>), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut partial = name.to_os_string();
        partial.push(format!(".{}-{number}.partial", std::process::id()));
        let partial = folder.join(partial);
        match file_system.create(&partial) {
            Ok(storage) => return Ok((partial, storage)),
            // Left by an earlier process of this number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(PublishSnafu { what: "create", path: partial }),
        }
    }
}
