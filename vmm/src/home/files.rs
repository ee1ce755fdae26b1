//! Folders and small files that are their user's alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use snafu::{ResultExt, ensure};

use super::error::{DamagedSnafu, FolderSnafu, ReadSnafu, UnsafeSnafu, WriteSnafu};
use super::{Danger, HomeError};

/// No file that we wrote is longer than this; one that is was not written by us.
const LONGEST_FILE: u64 = 16 << 20;

/// Makes a folder and those above it, ours alone; one that is there is checked and closed to others, where it has all of
/// `marks` in it or nothing but what is `ours`. Any other is in use by somebody (`/tmp`, a user's home): that is refused,
/// not closed.
pub(super) fn private_folder_all(path: &Path, marks: &[&str], ours: &[&str]) -> Result<(), HomeError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).context(FolderSnafu { path: parent })?;
    }
    let open = fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & 0o077 != 0);
    if open && !marks.iter().all(|mark| path.join(mark).exists()) {
        check_owner(path)?;
        for entry in fs::read_dir(path).context(FolderSnafu { path })? {
            let name = entry.context(FolderSnafu { path })?.file_name();
            ensure!(ours.iter().any(|ours| name == *ours), UnsafeSnafu { path, danger: Danger::Shared });
        }
    }
    private_folder(path)
}

/// Makes a folder, ours alone; one that is there is checked and closed to others.
pub(crate) fn private_folder(path: &Path) -> Result<(), HomeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path).context(FolderSnafu { path })?;
            ensure!(metadata.is_dir(), UnsafeSnafu { path, danger: Danger::NotAFolder });
            check_owner(path)?;
            if metadata.mode() & 0o077 != 0 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o700)).context(FolderSnafu { path })?;
            }
            Ok(())
        }
        Err(source) => Err(HomeError::Folder { path: path.to_owned(), source }),
    }
}

/// Makes a folder in a place where others may write; one that is there must be ours and closed already, for it may
/// be a trap.
pub(super) fn private_folder_among_others(path: &Path) -> Result<(), HomeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(HomeError::Folder { path: path.to_owned(), source }),
    }
    // Not followed: a link here could lead into another user's folder.
    let metadata = fs::symlink_metadata(path).context(FolderSnafu { path })?;
    ensure!(metadata.is_dir(), UnsafeSnafu { path, danger: Danger::NotAFolder });
    check_owner(path)?;
    ensure!(metadata.mode() & 0o077 == 0, UnsafeSnafu { path, danger: Danger::Open });
    Ok(())
}

fn check_owner(path: &Path) -> Result<(), HomeError> {
    let owner = fs::metadata(path).context(FolderSnafu { path })?.uid();
    let us = rustix::process::geteuid().as_raw();
    ensure!(owner == us, UnsafeSnafu { path, danger: Danger::Foreign { owner, us } });
    Ok(())
}

/// Replaces a file by `value` as JSON, so that a reader finds the old or the new one, whole.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HomeError> {
    let partial = path.with_extension("partial");
    write_partial(&partial, value)?;
    fs::rename(&partial, path).context(WriteSnafu { path })
}

/// Writes `value` as JSON to a file that does not have its name yet.
pub(crate) fn write_partial<T: Serialize>(partial: &Path, value: &T) -> Result<(), HomeError> {
    let write = || -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        text.push(b'\n');
        if text.len() as u64 > LONGEST_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "there is too much to record"));
        }
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
        file.write_all(&text)
    };
    write().context(WriteSnafu { path: partial })
}

/// Sees files and folders on the disk, in this order: what they hold, then the names that lead to them.
pub(crate) fn sync(paths: &[&Path]) -> Result<(), HomeError> {
    for &path in paths {
        File::open(path).and_then(|file| file.sync_all()).context(WriteSnafu { path })?;
    }
    Ok(())
}

/// Reads a file of ours. `None`: there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HomeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(HomeError::Read { path: path.to_owned(), source }),
    };
    let mut text = Vec::new();
    file.take(LONGEST_FILE).read_to_end(&mut text).context(ReadSnafu { path })?;
    serde_json::from_slice(&text).context(DamagedSnafu { path }).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_we_make_is_ours_alone() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b/c");
        private_folder_all(&folder, &["vms"], &[]).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(folder.parent().unwrap()), 0o700);
        write_json(&folder.join("x.json"), &7).unwrap();
        assert_eq!(mode(&folder.join("x.json")), 0o600);
        assert_eq!(read_json::<u32>(&folder.join("x.json")).unwrap(), Some(7));
        assert_eq!(read_json::<u32>(&folder.join("y.json")).unwrap(), None);
    }

    #[test]
    fn a_folder_of_ours_that_is_open_is_closed() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        private_folder(base.path()).unwrap();
        assert_eq!(mode(base.path()), 0o700);
    }

    #[test]
    fn a_folder_that_others_use_is_refused_and_left_as_it_is() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("anything"), "").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = private_folder_all(base.path(), &["vms"], &["images"]).unwrap_err();
        assert!(matches!(error, HomeError::Unsafe { danger: Danger::Shared, .. }), "{error}");
        assert_eq!(mode(base.path()), 0o755);
        fs::create_dir(base.path().join("vms")).unwrap();
        private_folder_all(base.path(), &["vms"], &["images"]).unwrap();
        assert_eq!(mode(base.path()), 0o700);
    }

    #[test]
    fn a_home_that_was_filled_by_hand_is_closed() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("images")).unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        private_folder_all(base.path(), &["vms"], &["images"]).unwrap();
        assert_eq!(mode(base.path()), 0o700);
    }

    #[test]
    fn a_trap_among_others_folders_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private_folder_among_others(&open), Err(HomeError::Unsafe { .. })));
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        assert!(matches!(private_folder_among_others(&link), Err(HomeError::Unsafe { .. })));
        private_folder_among_others(&base.path().join("new")).unwrap();
        private_folder_among_others(&base.path().join("new")).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("x.json");
        fs::write(&path, "{").unwrap();
        let error = read_json::<u32>(&path).unwrap_err();
        assert!(error.to_string().contains("x.json"), "{error}");
    }
}
