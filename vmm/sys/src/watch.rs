//! Being told that the files of a folder change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

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
}
