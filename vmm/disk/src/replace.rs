//! A new file in the place of a disk file.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use snafu::{ResultExt, ensure};

use crate::error::{Error, LinksSnafu, ReplaceSnafu};
use crate::publish::{FileSystem, HostFileSystem};

/// Where a disk file is made anew, beside it. Whoever has the disk for itself may remove what is there: it was left by one
/// that died.
pub fn partial_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".vmm.partial");
    path.with_file_name(name)
}

/// Whether a new file can take the place of a disk file: not where that has several names, for the others would go on
/// leading to the old one.
pub fn check_replaceable(path: &Path) -> Result<(), Error> {
    let names = fs::metadata(path).context(ReplaceSnafu { path })?.nlink();
    ensure!(names == 1, LinksSnafu { path, names });
    Ok(())
}

/// Puts a new file in the place of a disk file that nobody uses, with its mode and its owner. One of the two is there at
/// every moment, whole, and the new one when this returns, even after a power cut.
pub fn replace_file(path: &Path, new: &Path) -> Result<(), Error> {
    check_replaceable(path)?;
    make_like(path, new).and_then(|()| rename_over(new, path)).context(ReplaceSnafu { path })
}

/// Gives a new file the mode and the owner of another one, and sees it on the disk.
pub(crate) fn make_like(path: &Path, new: &Path) -> io::Result<()> {
    let (file, old) = (File::open(new)?, fs::metadata(path)?);
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.sync_all()
}

/// Gives a file that is on the disk the name of another one, and sees that on the disk.
pub(crate) fn rename_over(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path)?;
    HostFileSystem.sync_folder(path.parent().unwrap_or(Path::new("/")))
}
