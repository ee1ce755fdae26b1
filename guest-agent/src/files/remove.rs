//! Removing a file, or a folder with all that is in it.
//!
//! However deep a tree is, one folder of it is open at a time. No symbolic link is followed, whoever makes one meanwhile: a
//! folder is opened by its name in the one that is open, and the way back is taken only to the folder that it came from.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;
use vmm_protocol::{ErrorKind, Reply};

use super::refusal;
use crate::refusal::Refusal;
use crate::worker::{Stop, tell};

/// How often a client hears that it goes on.
const NEWS: Duration = Duration::from_secs(5);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes what is at a path.
pub(super) fn remove(client: &File, path: &Path, tree: bool) -> Result<Option<Reply>, Stop> {
    let failed = |error: Errno| refusal("remove", path, &error.into());
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) => return Ok(Some(Reply::Done)),
        // What Linux says of a folder.
        Err(Errno::ISDIR) if tree => {}
        Err(error) => return Err(failed(error).into()),
    }
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    if matches!(bytes[..end].rsplit(|byte| *byte == b'/').next(), None | Some(b"" | b"." | b"..")) {
        let message = format!("cannot remove {}: a folder is removed by its name", path.display());
        return Err(Refusal::new(ErrorKind::UnfitFile, message).into());
    }
    let folder = openat(CWD, path, FOLDER, Mode::empty()).map_err(failed)?;
    let removal = Removal { client, news: Instant::now() + NEWS, entries: 0, path };
    removal.empty(folder)?;
    unlinkat(CWD, path, AtFlags::REMOVEDIR).map_err(failed)?;
    Ok(Some(Reply::Done))
}

struct Removal<'a> {
    client: &'a File,
    /// When the client is told again that it goes on.
    news: Instant,
    entries: u64,
    path: &'a Path,
}

/// A folder that waits for one in it to be empty.
struct Above {
    /// Which folder it is, by device and number.
    identity: (u64, u64),
    /// The name of the one in it.
    name: Vec<u8>,
}

impl Removal<'_> {
    /// Removes all that is in a folder.
    fn empty(mut self, mut folder: OwnedFd) -> Result<(), Stop> {
        let mut above: Vec<Above> = Vec::new();
        loop {
            if let Some(name) = self.clear(&folder)? {
                let inner = openat(&folder, &name[..], FOLDER, Mode::empty());
                let inner = inner.map_err(|error| self.failed(&name, error))?;
                let (here, there) = (self.identity(&folder)?, self.identity(&inner)?);
                if here.0 != there.0 {
                    return Err(self.failed(&name, Errno::XDEV).into());
                }
                above.push(Above { identity: here, name });
                folder = inner;
                continue;
            }
            let Some(Above { identity, name }) = above.pop() else { return Ok(()) };
            folder =
                openat(&folder, "..", FOLDER, Mode::empty()).map_err(|error| self.failed(&name, error))?;
            if self.identity(&folder)? != identity {
                // Somebody has moved it meanwhile: what is above it now is not ours to remove.
                return Err(self.failed(&name, Errno::STALE).into());
            }
            unlinkat(&folder, &name[..], AtFlags::REMOVEDIR).map_err(|error| self.failed(&name, error))?;
            self.one_is_gone()?;
        }
    }

    /// Removes what is in a folder, up to the first folder in it that is not empty.
    fn clear(&mut self, folder: &OwnedFd) -> Result<Option<Vec<u8>>, Stop> {
        for entry in Dir::read_from(folder.as_fd()).map_err(|error| self.failed(b"", error))? {
            let entry = entry.map_err(|error| self.failed(b"", error))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let mut removed = if entry.file_type() == FileType::Directory {
                Err(Errno::ISDIR)
            } else {
                unlinkat(folder, name, AtFlags::empty())
            };
            if removed == Err(Errno::ISDIR) {
                removed = unlinkat(folder, name, AtFlags::REMOVEDIR);
            }
            match removed {
                Ok(()) => self.one_is_gone()?,
                // Somebody else was quicker.
                Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => return Ok(Some(name.to_vec())),
                Err(error) => return Err(self.failed(name, error).into()),
            }
        }
        Ok(None)
    }

    fn one_is_gone(&mut self) -> Result<(), Stop> {
        self.entries += 1;
        // The clock is not asked for each of a million files.
        if self.entries.is_multiple_of(64) && Instant::now() >= self.news {
            self.news = Instant::now() + NEWS;
            tell(self.client, Reply::Going { entries: self.entries })?;
        }
        Ok(())
    }

    fn identity(&self, folder: &OwnedFd) -> Result<(u64, u64), Refusal> {
        let stat = fstat(folder).map_err(|error| self.failed(b"", error))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn failed(&self, name: &[u8], error: Errno) -> Refusal {
        let error: io::Error = error.into();
        let name = String::from_utf8_lossy(name);
        let what = if name.is_empty() { "remove".to_owned() } else { format!("remove {name:?} in") };
        refusal(&what, self.path, &error)
    }
}
