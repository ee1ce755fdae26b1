//! What is made before it has its name: it is put in its place in one step, or removed.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, fchmod, flock, renameat, unlinkat};
use rustix::io::Errno;
use vmm_sys::beneath::open_folder;

use crate::beneath::shown;
use crate::error::{Error, trying};

/// How a temporary name ends.
const END: &str = ".partial";

/// How one ends whose maker holds the folder's lock: without the lock, its maker is dead.
const END_LOCKED: &str = ".locked.partial";

/// The digits before that.
const DIGITS: usize = 16;

/// A name that nothing has, beside a name.
pub(crate) fn temporary_name(name: &[u8]) -> Vec<u8> {
    ending_in(name, END)
}

fn ending_in(name: &[u8], end: &str) -> Vec<u8> {
    /// No name in a file system has more bytes.
    const LONGEST: usize = 255;
    let end = format!(".{:0DIGITS$x}{end}", RandomState::new().build_hasher().finish());
    let kept = name.len().min(LONGEST - 1 - end.len());
    [b".", &name[..kept], end.as_bytes()].concat()
}

/// Whether this is a name of something whose maker held the folder's lock.
fn is_locked(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b".").and_then(|name| name.strip_suffix(END_LOCKED.as_bytes()));
    digits.and_then(|name| name.split_last_chunk::<DIGITS>()).is_some_and(|(name, digits)| {
        name.ends_with(b".") && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Takes part in a folder's lock, which is shared by all that make something in it. Who is alone with it removes what those have
/// left that were killed. False if somebody has the lock for himself: nobody is waited for.
fn lock(folder: BorrowedFd<'_>) -> bool {
    if flock(folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
        for entry in Dir::read_from(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_bytes();
            if is_locked(name) {
                remove(folder, name);
            }
        }
    }
    flock(folder, FlockOperation::NonBlockingLockShared).is_ok()
}

/// Files and trees that are made beside their place in a folder. Those that have not been put there are removed when
/// this is dropped, and by the next stage in the folder if it never is.
#[derive(Debug)]
pub(crate) struct Stage {
    pub folder: OwnedFd,
    pub shown: PathBuf,
    /// The folder's lock is ours, too.
    locked: bool,
    /// The names that they are to have, and those that they have.
    names: HashMap<Vec<u8>, Vec<u8>>,
}

impl Stage {
    pub(crate) fn new(folder: OwnedFd, shown: PathBuf) -> Self {
        let locked = lock(folder.as_fd());
        Self { folder, shown, locked, names: HashMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The name that something has for now.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.names.get(name).map(Vec::as_slice)
    }

    /// The name that something is to have.
    pub(crate) fn name_of(&self, temporary: &[u8]) -> Option<&[u8]> {
        if !temporary.ends_with(END.as_bytes()) {
            return None;
        }
        let mut names = self.names.iter();
        names.find(|(_, known)| *known == temporary).map(|(name, _)| name.as_slice())
    }

    /// Gives something that will be made a name for now.
    pub(crate) fn add(&mut self, name: &[u8]) -> Vec<u8> {
        let temporary = ending_in(name, if self.locked { END_LOCKED } else { END });
        self.names.insert(name.to_vec(), temporary.clone());
        temporary
    }

    /// Puts everything in its place.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        while let Some(name) = self.names.keys().next().cloned() {
            let Some(temporary) = self.names.get(&name) else { break };
            let moved = renameat(&self.folder, &temporary[..], &self.folder, &name[..]);
            let path = shown(&self.shown, &name);
            moved.map_err(trying("put in its place", &path))?;
            // Two names of one file are not renamed into one.
            let _ = unlinkat(&self.folder, &temporary[..], AtFlags::empty());
            self.names.remove(&name);
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for temporary in self.names.values() {
            remove(self.folder.as_fd(), temporary);
        }
    }
}

/// Removes a file or a tree, as far as that goes.
fn remove(folder: BorrowedFd<'_>, name: &[u8]) {
    /// So many folders are looked for at once.
    const AT_ONCE: usize = 256;
    if unlinkat(folder, name, AtFlags::empty()).is_ok() {
        return;
    }
    let mut folders = vec![name.to_vec()];
    while let Some(path) = folders.last().cloned() {
        let inner = empty(folder, &path, AT_ONCE);
        if !inner.is_empty() {
            folders.extend(inner);
            continue;
        }
        folders.pop();
        let (parent, leaf) = crate::beneath::split(&path);
        let removed = open_folder(folder, parent).map(|parent| unlinkat(parent, leaf, AtFlags::REMOVEDIR));
        if !matches!(removed, Ok(Ok(()))) {
            // Somebody puts files there, or it is not ours any more: what is left stays.
            return;
        }
    }
}

/// Removes what is in a folder but for folders, and says which of those there are.
fn empty(root: BorrowedFd<'_>, path: &[u8], most: usize) -> Vec<Vec<u8>> {
    let mut inner = Vec::new();
    let opened = open_folder(root, path).or_else(|error| {
        // It may have got its own mode already. An administrator opens it in any case, so this changes nothing of others'.
        let (parent, leaf) = crate::beneath::split(path);
        if error.kind() == io::ErrorKind::PermissionDenied {
            rustix::fs::chmodat(open_folder(root, parent)?, leaf, Mode::RWXU, AtFlags::empty())?;
        }
        open_folder(root, path)
    });
    let Ok(folder) = opened else { return inner };
    let _ = fchmod(&folder, Mode::RWXU);
    let Ok(entries) = Dir::read_from(&folder) else { return inner };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        match unlinkat(&folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) if inner.len() < most => {
                inner.push([path, b"/", name.to_bytes()].concat());
            }
            _ => {}
        }
    }
    inner
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn stage(folder: &std::path::Path) -> Stage {
        Stage::new(fs::File::open(folder).unwrap().into(), folder.to_owned())
    }

    #[test]
    fn what_was_left_by_one_that_was_killed_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let left = ".tree.0123456789abcdef.locked.partial";
        let others =
            [".tree.0123456789abcdef.partial", ".tree.locked.partial", ".0123456789abcdef.locked.partial"];
        fs::create_dir_all(at(left).join("in")).unwrap();
        fs::write(at(left).join("in/file"), "half").unwrap();
        for other in others {
            fs::write(at(other), "").unwrap();
        }
        let mut first = stage(folder.path());
        assert!(!at(left).exists());
        assert!(others.iter().all(|other| at(other).exists()));
        // What one that lives is making stays.
        let made = first.add(b"file");
        let made = at(std::str::from_utf8(&made).unwrap());
        fs::write(&made, "half").unwrap();
        let second = stage(folder.path());
        assert!(made.exists() && second.locked);
        drop((first, second));
        assert!(!made.exists());
    }

    #[test]
    fn who_has_no_lock_makes_nothing_that_others_remove() {
        let folder = tempfile::tempdir().unwrap();
        let other = fs::File::open(folder.path()).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        let mut stage = stage(folder.path());
        assert!(!is_locked(&stage.add(b"file")));
        drop(other);
        assert!(is_locked(&Stage::new(stage.folder.try_clone().unwrap(), PathBuf::new()).add(&[b'x'; 255])));
    }
}
