//! Telling what changes in a folder, by the kernel's inotify.
//!
//! A folder that is made or moved into the tree is watched from then on, and what is in it by then is told as made: it may
//! be told twice, but nothing is missed. Where the kernel could not keep up that is told too.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm_protocol::{Change, ChangeKind, ErrorKind, Reply};

use super::refusal;
use crate::refusal::Refusal;
use crate::worker::{PAGE, Stop, tell};

/// One request watches no more folders.
const MAX_FOLDERS: usize = 16 << 10;

const CHANGES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM);

/// What is said of the watched path itself only.
const OF_THE_ROOT: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);

/// A folder beneath the watched one is only ever a folder.
const OF_THE_OTHERS: AddWatchFlags = AddWatchFlags::IN_ONLYDIR.union(AddWatchFlags::IN_DONT_FOLLOW);

/// Tells what changes until the client leaves, or the path is gone.
pub(super) fn watch(client: &File, path: &Path, recursive: bool) -> Result<Option<Reply>, Stop> {
    let failed = |error: io::Error| refusal("watch", path, &error);
    let root = fs::canonicalize(path).map_err(failed)?;
    let recursive = recursive && root.is_dir();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
    let inotify = inotify.map_err(|errno| failed(errno.into()))?;
    let of_root = inotify.add_watch(&root, CHANGES | OF_THE_ROOT).map_err(|errno| failed(errno.into()))?;
    let folders = HashMap::from([(of_root, Vec::new())]);
    let mut watch = Watch { client, inotify, of_root, root, recursive, folders, page: Vec::new(), size: 0 };
    if recursive {
        watch.descend(Vec::new(), false)?;
    }
    tell(client, Reply::Watching)?;
    watch.run()
}

struct Watch<'a> {
    client: &'a File,
    inotify: Inotify,
    of_root: WatchDescriptor,
    root: PathBuf,
    recursive: bool,
    /// What is watched, by its path beneath the root.
    folders: HashMap<WatchDescriptor, Vec<u8>>,
    /// What is to be told.
    page: Vec<Change>,
    size: usize,
}

impl Watch<'_> {
    fn run(mut self) -> Result<Option<Reply>, Stop> {
        loop {
            let mut fds =
                [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(self.client, PollFlags::IN)];
            match poll(&mut fds, None) {
                // The client has nothing to say but that it leaves.
                Ok(_) if !fds[1].revents().is_empty() => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Stop::Client(errno.into())),
            }
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(refusal("watch", &self.root, &errno.into()).into()),
            };
            for event in &events {
                if !self.take(event)? {
                    self.flush()?;
                    return Ok(Some(Reply::Done));
                }
            }
            self.flush()?;
        }
    }

    /// Takes an event. Says whether there is still something to watch.
    fn take(&mut self, event: &InotifyEvent) -> Result<bool, Stop> {
        let is = |flags: AddWatchFlags| event.mask.intersects(flags);
        if is(AddWatchFlags::IN_Q_OVERFLOW) {
            self.tell(ChangeKind::Missed, Vec::new())?;
            // Folders may have come meanwhile.
            if self.recursive {
                self.descend(Vec::new(), false)?;
            }
            return Ok(true);
        }
        if is(AddWatchFlags::IN_IGNORED) {
            self.folders.remove(&event.wd);
            return Ok(event.wd != self.of_root);
        }
        let Some(folder) = self.folders.get(&event.wd) else { return Ok(true) };
        if is(OF_THE_ROOT) {
            self.tell(ChangeKind::Removed, Vec::new())?;
            return Ok(false);
        }
        let path = join(folder, event.name.as_deref().map(OsStrExt::as_bytes).unwrap_or_default());
        let is_folder = is(AddWatchFlags::IN_ISDIR);
        let what = match () {
            () if is(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) => ChangeKind::Created,
            () if is(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) => ChangeKind::Removed,
            () if is(AddWatchFlags::IN_MODIFY) => ChangeKind::Modified,
            () if is(AddWatchFlags::IN_CLOSE_WRITE) => ChangeKind::Closed,
            () if is(AddWatchFlags::IN_ATTRIB) => ChangeKind::Attributes,
            () => return Ok(true),
        };
        if is(AddWatchFlags::IN_MOVED_FROM) && is_folder {
            self.forget(&path);
        }
        self.tell(what, path.clone())?;
        if what == ChangeKind::Created && is_folder && self.recursive {
            self.descend(path, true)?;
        }
        Ok(true)
    }

    /// Watches a folder and those in it. What is in a folder that has come is told.
    fn descend(&mut self, folder: Vec<u8>, has_come: bool) -> Result<(), Stop> {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            let path = self.root.join(OsStr::from_bytes(&folder));
            if !folder.is_empty() {
                if self.folders.len() >= MAX_FOLDERS {
                    return Err(self.too_many().into());
                }
                match self.inotify.add_watch(&path, CHANGES | OF_THE_OTHERS) {
                    Ok(descriptor) => drop(self.folders.insert(descriptor, folder.clone())),
                    // The system's own limit.
                    Err(nix::errno::Errno::ENOSPC | nix::errno::Errno::ENOMEM) => {
                        return Err(self.too_many().into());
                    }
                    // Gone again, or something else by now: that is told as well.
                    Err(_) => continue,
                }
            }
            let Ok(entries) = fs::read_dir(&path) else { continue };
            for entry in entries.flatten() {
                let inner = join(&folder, entry.file_name().as_bytes());
                if has_come {
                    self.tell(ChangeKind::Created, inner.clone())?;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(inner);
                }
            }
        }
        Ok(())
    }

    fn too_many(&self) -> Refusal {
        let message =
            format!("cannot watch all of {}: it has more folders than can be watched", self.root.display());
        Refusal::new(ErrorKind::Resources, message)
    }

    /// Watches a folder that went elsewhere no more, nor those in it.
    fn forget(&mut self, folder: &[u8]) {
        let (inotify, root) = (&self.inotify, self.of_root);
        self.folders.retain(|descriptor, path| {
            let is_in = path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
            if is_in && *descriptor != root {
                let _ = inotify.rm_watch(*descriptor);
            }
            !is_in || *descriptor == root
        });
    }

    fn tell(&mut self, what: ChangeKind, path: Vec<u8>) -> Result<(), Stop> {
        let change = Change { what, path: path.into() };
        // A file that is written to piece by piece is told once for all that was seen at once.
        if self.page.last() == Some(&change) {
            return Ok(());
        }
        self.size += 32 + change.path.as_bytes().len();
        self.page.push(change);
        if self.size >= PAGE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.size = 0;
        if self.page.is_empty() {
            return Ok(());
        }
        tell(self.client, Reply::Changes(std::mem::take(&mut self.page)))
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() || name.is_empty() {
        return [folder, name].concat();
    }
    [folder, b"/", name].concat()
}
