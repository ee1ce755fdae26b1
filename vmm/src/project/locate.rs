//! Which folder is the project: the nearest one upwards with a `vmm.toml` in it, or else this one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use snafu::{ResultExt, ensure};

use super::ProjectError;
use super::error::{FolderSnafu, ForeignSnafu, LeadsOutSnafu, ReadSnafu};
use super::file::{FILE_NAME, LONGEST_FILE};

/// A project's folder, and its file if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Without links in it.
    pub(super) folder: PathBuf,
    pub(super) file: Option<PathBuf>,
}

/// The project of a folder, as cargo finds its own: where nothing is above, it is the folder itself.
pub(super) fn find(start: &Path) -> Result<Location, ProjectError> {
    let start = canonical(start)?;
    for folder in start.ancestors() {
        let file = folder.join(FILE_NAME);
        let Ok(metadata) = fs::symlink_metadata(&file) else { continue };
        // Who can write to a folder above, such as /tmp, must not say what starts here.
        let foreign = folder != start && ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
        ensure!(!foreign, ForeignSnafu { file });
        return Ok(Location { folder: folder.to_owned(), file: Some(file) });
    }
    Ok(Location { folder: start, file: None })
}

/// This folder and no other. It may be gone: what was started there is not.
pub(super) fn exactly(folder: &Path) -> Result<Location, ProjectError> {
    if let Err(error) = fs::metadata(folder)
        && error.kind() == io::ErrorKind::NotFound
    {
        let folder = std::path::absolute(folder).context(FolderSnafu { path: folder })?;
        return Ok(Location { folder, file: None });
    }
    let folder = canonical(folder)?;
    let file = folder.join(FILE_NAME);
    let file = fs::symlink_metadata(&file).is_ok().then_some(file);
    Ok(Location { folder, file })
}

fn canonical(folder: &Path) -> Result<PathBuf, ProjectError> {
    let canonical = fs::canonicalize(folder).context(FolderSnafu { path: folder })?;
    let is_folder = fs::metadata(&canonical).context(FolderSnafu { path: folder })?.is_dir();
    let not_a_folder = || Err(io::ErrorKind::NotADirectory.into());
    if is_folder { Ok(canonical) } else { not_a_folder().context(FolderSnafu { path: folder }) }
}

/// The text of a project's file.
pub(super) fn read(location: &Location) -> Result<String, ProjectError> {
    let folder = &location.folder;
    fs::metadata(folder).context(FolderSnafu { path: folder })?;
    let Some(file) = &location.file else { return Ok(String::new()) };
    let real = fs::canonicalize(file).context(ReadSnafu { path: file })?;
    ensure!(real.starts_with(folder), LeadsOutSnafu { file });
    let bytes = read_bounded(&real, LONGEST_FILE).context(ReadSnafu { path: file })?;
    String::from_utf8(bytes)
        .map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            let line = before.matches('\n').count() + 1;
            io::Error::new(io::ErrorKind::InvalidData, format!("it is no text in UTF-8: see line {line}"))
        })
        .context(ReadSnafu { path: file })
}

/// Opens a file to read it. What is no file may have no end, or wait for a writer: it is refused.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok(file)
}

/// Reads a file that must not be longer than this.
pub(super) fn read_bounded(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        let message = format!("it is longer than {} KiB", longest >> 10);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        (folder, path)
    }

    #[test]
    fn the_nearest_file_upwards_makes_the_project() {
        let (_base, base) = folder();
        let deep = base.join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(base.join("a").join(FILE_NAME), "").unwrap();
        assert_eq!(find(&deep).unwrap().folder, base.join("a"));
        fs::write(deep.join(FILE_NAME), "").unwrap();
        assert_eq!(find(&deep).unwrap().folder, deep);
        assert_eq!(exactly(&base.join("a/b")).unwrap(), Location { folder: base.join("a/b"), file: None });
    }

    #[test]
    fn without_any_file_the_folder_itself_is_the_project() {
        let (_base, base) = folder();
        assert_eq!(find(&base).unwrap(), Location { folder: base, file: None });
    }

    #[test]
    fn what_another_user_wrote_above_does_not_count() {
        let (_base, base) = folder();
        let file = base.join(FILE_NAME);
        fs::write(&file, "").unwrap();
        fs::create_dir(base.join("below")).unwrap();
        if std::os::unix::fs::chown(&file, Some(65534), None).is_err() {
            println!("skipped: only root can give a file to another user");
            return;
        }
        let refusal = find(&base.join("below")).unwrap_err();
        assert!(matches!(&refusal, ProjectError::Foreign { .. }), "{refusal}");
        assert!(refusal.hint().unwrap().contains("--project"));
        // Who is in that folder has chosen it.
        assert_eq!(find(&base).unwrap().file, Some(file.clone()));
        assert_eq!(exactly(&base).unwrap().file, Some(file));
    }

    #[test]
    fn a_project_has_one_folder_however_it_is_reached() {
        let (_base, base) = folder();
        fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        assert_eq!(find(&base.join("link")).unwrap().folder, base.join("real"));
    }

    #[test]
    fn what_is_no_small_text_file_is_refused_at_once() {
        let (_base, base) = folder();
        let file = base.join(FILE_NAME);
        let refused = |words: &str| {
            let error = read(&find(&base).unwrap()).unwrap_err();
            let told = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(told.contains(words), "{told}");
        };
        fs::create_dir(&file).unwrap();
        refused("not a file");
        fs::remove_dir(&file).unwrap();
        fs::write(&file, vec![b'#'; 300 << 10]).unwrap();
        refused("longer than 256 KiB");
        fs::write(&file, b"a = 1\nb = \"\xff\"").unwrap();
        refused("line 2");
        fs::remove_file(&file).unwrap();
        let nodes = [("/dev/zero", "leads out"), ("../elsewhere", "No such file")];
        for (target, words) in nodes {
            std::os::unix::fs::symlink(target, &file).unwrap();
            refused(words);
            fs::remove_file(&file).unwrap();
        }
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        refused("not a file");
    }
}
