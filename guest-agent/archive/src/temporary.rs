//! What is made before it has its name: it is put in its place in one step, or removed.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, fchmod, renameat, unlinkat};
use rustix::io::Errno;
use vmm_sys::beneath::open_folder;

use crate::beneath::shown;
use crate::error::{Error, trying};

/// A name that nothing has, beside a name.
pub(crate) fn temporary_name(name: &[u8]) -> Vec<u8> {
    /// No name in a file system has more bytes.
    const LONGEST: usize = 255;
    let end = format!(".{:016x}.partial", RandomState::new().build_hasher().finish());
    let kept = name.len().min(LONGEST - 1 - end.len());
    [b".", &name[..kept], end.as_bytes()].concat()
}

/// Files and trees that are made beside their place in a folder. Those that have not been put there are removed when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    pub folder: OwnedFd,
    pub shown: PathBuf,
    /// The names that they are to have, and those that they have.
    names: HashMap<Vec<u8>, Vec<u8>>,
}

impl Stage {
    pub(crate) fn new(folder: OwnedFd, shown: PathBuf) -> Self {
        Self { folder, shown, names: HashMap::new() }
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
        if !temporary.ends_with(b".partial") {
            return None;
        }
        let mut names = self.names.iter();
        names.find(|(_, known)| *known == temporary).map(|(name, _)| name.as_slice())
    }

    /// Gives something that will be made a name for now.
    pub(crate) fn add(&mut self, name: &[u8]) -> Vec<u8> {
        let temporary = temporary_name(name);
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
