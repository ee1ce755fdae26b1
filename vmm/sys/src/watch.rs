//! Being told that the files of a folder change.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Readable when a file in a folder was written, made, renamed or removed.
pub struct FolderWatch {
    inotify: Inotify,
}

impl FolderWatch {
    /// Watches a folder from now on.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(folder, flags)?;
        Ok(Self { inotify })
    }

    /// Takes what was told, so that it is readable only by something new.
    pub fn clear(&self) -> io::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Readable when something in one of many folders was made, got another name or went. What is only written to is not told.
pub struct EntryWatch {
    inotify: Inotify,
}

/// A folder that is watched. One that is watched twice is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchedFolder(WatchDescriptor);

/// Where something happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// In these folders, each named once.
    Folders(BTreeSet<WatchedFolder>),
    /// So much happened that nobody knows where.
    Anywhere,
}

impl EntryWatch {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)? })
    }

    /// Watches a folder from now on, until it is removed.
    pub fn add(&self, folder: &Path) -> io::Result<WatchedFolder> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        Ok(WatchedFolder(self.inotify.add_watch(folder, flags)?))
    }

    /// Watches a folder no longer. One that is removed is not watched any more.
    pub fn remove(&self, folder: WatchedFolder) {
        let _ = self.inotify.rm_watch(folder.0);
    }

    /// Takes what was told.
    pub fn take(&self) -> io::Result<Changed> {
        let mut folders = BTreeSet::new();
        let mut anywhere = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        anywhere |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                        folders.insert(WatchedFolder(event.wd));
                    }
                }
                Err(nix::errno::Errno::EAGAIN) if anywhere => return Ok(Changed::Anywhere),
                Err(nix::errno::Errno::EAGAIN) => return Ok(Changed::Folders(folders)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for EntryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interest, Poller};
    use std::time::Duration;

    #[test]
    fn a_write_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let watch = FolderWatch::new(folder.path()).unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&watch, 0, Interest::READ).unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
        std::fs::write(folder.path().join("x"), "x").unwrap();
        assert_eq!(poller.wait(None).unwrap().count(), 1);
        watch.clear().unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
    }

    #[test]
    fn of_many_folders_it_is_told_which_ones_changed() {
        let base = tempfile::tempdir().unwrap();
        let folders = ["a", "b", "c"].map(|name| base.path().join(name));
        folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
        let watch = EntryWatch::new().unwrap();
        let watched = [0, 1, 2].map(|index| watch.add(&folders[index]).unwrap());
        assert_eq!(watch.take().unwrap(), Changed::Folders(BTreeSet::new()));
        std::fs::write(folders[0].join("x"), "x").unwrap();
        std::fs::rename(folders[0].join("x"), folders[2].join("y")).unwrap();
        assert_eq!(watch.take().unwrap(), Changed::Folders(BTreeSet::from([watched[0], watched[2]])));
        std::fs::write(folders[2].join("y"), "more").unwrap();
        assert_eq!(watch.take().unwrap(), Changed::Folders(BTreeSet::new()));
        watch.remove(watched[2]);
        watch.take().unwrap();
        std::fs::write(folders[2].join("z"), "z").unwrap();
        assert_eq!(watch.take().unwrap(), Changed::Folders(BTreeSet::new()));
    }
}
