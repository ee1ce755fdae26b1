//! Where an archive goes: the rules of `cp -a` for the path that a user names.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, trying};

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// One file or tree, which takes the path's name, or goes into the folder that is there.
    One,
    /// One file, which takes the path's name. No folder is there.
    File,
    /// Several, which go into the folder that must be there.
    Several,
    /// An archive of a stranger's: what is in it goes into the folder that is there, or into a new one.
    Anything,
}

/// Where an archive goes.
#[derive(Debug)]
pub struct Place {
    /// The folder that everything is made in.
    pub(crate) folder: OwnedFd,
    pub(crate) shown: PathBuf,
    pub(crate) target: Target,
    /// The only names that may come into the folder, where that is known.
    pub(crate) roots: Option<HashSet<Vec<u8>>>,
}

/// What the archive becomes in the folder.
#[derive(Debug)]
pub(crate) enum Target {
    /// What is in it is in the folder.
    Into,
    /// Its only tree or file takes this name. A folder must come if nothing else can have the name.
    As { name: Vec<u8>, only_a_folder: bool, replaces_file: bool },
    /// A new folder of this name has what is in it.
    New { name: Vec<u8> },
}

impl Place {
    /// Looks at a path. Links that are in it are followed: who named it knows it.
    pub fn find(path: &Path, holds: Holds) -> Result<Self, Error> {
        let unfit = |why| Err(Error::Unfit { path: path.to_owned(), why });
        let bytes = path.as_os_str().as_bytes();
        let names_a_folder = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        match fs::metadata(path) {
            Ok(found) if found.is_dir() && holds == Holds::File => return unfit("is a folder"),
            Ok(found) if found.is_dir() => {
                return Ok(Self {
                    folder: open(path)?,
                    shown: path.to_owned(),
                    target: Target::Into,
                    roots: None,
                });
            }
            Ok(_) if !matches!(holds, Holds::One | Holds::File) || names_a_folder => {
                return unfit("is no folder");
            }
            Ok(found) if !found.is_file() => {
                let kind = found.file_type();
                let device = kind.is_char_device() || kind.is_block_device();
                return unfit(if device { "is a device" } else { "is neither a file nor a folder" });
            }
            Ok(_) => {
                // What a link leads to is replaced, not the link.
                let path = fs::canonicalize(path).map_err(trying("find", path))?;
                return Self::as_name(&path, |name| Target::As {
                    name,
                    only_a_folder: false,
                    replaces_file: true,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return unfit("is no folder"),
            Err(error) if error.kind() != io::ErrorKind::NotFound || holds == Holds::Several => {
                return Err(trying("find the folder", path)(error));
            }
            Err(_) => {}
        }
        if fs::symlink_metadata(path.components().as_path()).is_ok() {
            return unfit("is a symbolic link that leads nowhere");
        }
        Self::as_name(path, |name| match holds {
            Holds::Anything => Target::New { name },
            _ => Target::As { name, only_a_folder: names_a_folder, replaces_file: false },
        })
    }

    /// Lets only these names into the folder, with what is beneath them: whoever packs could send others. `.` among them
    /// stands for all.
    #[must_use]
    pub fn with_roots(mut self, roots: Vec<Vec<u8>>) -> Self {
        self.roots = (!roots.iter().any(|root| root == b".")).then(|| roots.into_iter().collect());
        self
    }

    /// The folder that everything is made in.
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    fn as_name(path: &Path, target: impl FnOnce(Vec<u8>) -> Target) -> Result<Self, Error> {
        let Some(name) = path.file_name() else {
            return Err(trying("find the folder", path)(io::Error::from(io::ErrorKind::NotFound)));
        };
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self {
            folder: open(folder)?,
            shown: folder.to_owned(),
            target: target(name.as_bytes().to_vec()),
            roots: None,
        })
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let opened = openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(trying("open the folder", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_means_what_it_means_to_cp() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir(at("there")).unwrap();
        fs::write(at("file"), "").unwrap();
        symlink("there", at("to-folder")).unwrap();
        symlink("there/../file", at("to-file")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let target = |path: &str, holds| Place::find(&at(path), holds).map(|place| place.target);
        for path in ["there", "there/", "to-folder", "to-folder/"] {
            for holds in [Holds::One, Holds::Several, Holds::Anything] {
                assert!(matches!(target(path, holds), Ok(Target::Into)), "{path}");
            }
        }
        let name = |path| match target(path, Holds::One) {
            Ok(Target::As { name, only_a_folder, replaces_file }) => {
                (String::from_utf8(name).unwrap(), only_a_folder, replaces_file)
            }
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(name("file"), ("file".into(), false, true));
        assert_eq!(name("to-file"), ("file".into(), false, true));
        assert_eq!(name("new"), ("new".into(), false, false));
        assert_eq!(name("new/"), ("new".into(), true, false));
        assert!(matches!(target("new", Holds::Anything), Ok(Target::New { name }) if name == b"new"));
        for (path, holds) in [
            ("dangling", Holds::One),
            ("file/", Holds::One),
            ("file", Holds::Several),
            ("file", Holds::Anything),
            ("new", Holds::Several),
            ("new/deeper", Holds::One),
        ] {
            assert!(target(path, holds).is_err(), "{path}");
        }
        let null = Place::find(Path::new("/dev/null"), Holds::One).unwrap_err();
        assert_eq!(null.to_string(), "/dev/null is a device");
    }
}
