//! What a guest wrote to its console, as it was recorded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys::watch::FolderWatch;

use super::link::end_from;
use super::{CancelToken, Error, log_position};
use crate::control::{Connection, ControlError, Goal, Request};
use crate::home::{CONTINUED, Timestamp, VmFolder};

/// Reads the console of a VM as the guest wrote it: whoever shows it on a terminal removes what could steer that.
///
/// A following reader waits at the end for more, and ends when the VM does.
pub struct ConsoleLog {
    folder: VmFolder,
    /// What is read now; others come after it.
    file: Option<File>,
    /// How much of its first line is not to be shown.
    skip: usize,
    follow: Option<Follow>,
}

/// Which part of a console's log is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Wait at the end for more.
    pub follow: bool,
    /// Only what was written since then, as far as that is known: to a second.
    pub since: Option<Timestamp>,
    /// Only so many lines, the last ones.
    pub tail: Option<u64>,
}

struct Follow {
    watch: FolderWatch,
    /// Readable when the VM has ended: it is asked for nothing else.
    monitor: Option<Connection>,
    cancel: Option<CancelToken>,
}

impl ConsoleLog {
    pub(super) fn open(
        folder: &VmFolder,
        monitor: Option<Connection>,
        options: &LogOptions,
        cancel: Option<&CancelToken>,
    ) -> Result<Self, Error> {
        let follow = if options.follow { Some(Follow::new(folder, monitor, cancel)?) } else { None };
        let file = first(folder, options)
            .map_err(|source| Error::System { what: "read the VM's console".to_owned(), source })?;
        Ok(Self { folder: folder.clone(), file, skip: 0, follow })
    }

    /// Goes on to the file that continues the one that was read to its end; says whether there is one.
    fn next_file(&mut self) -> io::Result<bool> {
        let Some(newer) = open_if_there(&self.folder.console_log())? else { return Ok(false) };
        let ours = self.file.as_ref().map(identity).transpose()?;
        if ours == Some(identity(&newer)?) {
            return Ok(false);
        }
        // That it continues an older one is news only where we have not just read that.
        let older = open_if_there(&self.folder.console_log_older())?;
        let older = older.as_ref().map(identity).transpose()?;
        self.skip = if ours.is_some() && ours == older { CONTINUED.len() } else { 0 };
        self.file = Some(newer);
        Ok(true)
    }

    fn read_file(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        while self.skip > 0 {
            let mut line = [0; CONTINUED.len()];
            let length = file.read(&mut line[..self.skip])?;
            if length == 0 {
                return Ok(0);
            }
            self.skip -= length;
        }
        file.read(bytes)
    }
}

impl Read for ConsoleLog {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            // Looked at before reading: what is written after that wakes us.
            let over = self.follow.as_mut().is_none_or(Follow::is_over);
            if let Some(follow) = &self.follow {
                // A folder that is gone tells nothing more, and its monitor's end is told otherwise.
                let _ = follow.watch.clear();
            }
            let length = self.read_file(bytes)?;
            if length > 0 {
                return Ok(length);
            }
            if self.next_file()? {
                continue;
            }
            if over {
                return Ok(0);
            }
            if let Some(follow) = &self.follow {
                follow.wait()?;
            }
        }
    }
}

impl Follow {
    fn new(
        folder: &VmFolder,
        monitor: Option<Connection>,
        cancel: Option<&CancelToken>,
    ) -> Result<Self, Error> {
        let what = "watch the VM's console".to_owned();
        let watch = FolderWatch::new(&folder.path()).map_err(|source| Error::System { what, source })?;
        let monitor = monitor.and_then(|mut monitor| {
            monitor.request(Request::Wait { goal: Goal::Ended }).ok()?;
            Some(monitor)
        });
        Ok(Self { watch, monitor, cancel: cancel.cloned() })
    }

    /// Whether nothing more can come, or the reader does not want it.
    fn is_over(&mut self) -> bool {
        if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return true;
        }
        let Some(monitor) = &mut self.monitor else { return true };
        !matches!(end_from(monitor, Some(Instant::now()), None), Err(ControlError::Unresponsive))
    }

    fn wait(&self) -> io::Result<()> {
        let mut waited = vec![PollFd::new(&self.watch, PollFlags::IN)];
        waited.extend(self.monitor.iter().map(|monitor| PollFd::new(monitor, PollFlags::IN)));
        waited
            .extend(self.cancel.iter().map(|cancel| PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)));
        match poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The file that is read first, where it is read first.
fn first(folder: &VmFolder, options: &LogOptions) -> io::Result<Option<File>> {
    let mut parts = log_position::parts(folder)?;
    let since = options.since.map(|moment| log_position::since(&parts, moment)).transpose()?;
    let tail = options.tail.map(|count| log_position::last_lines(&parts, count)).transpose()?;
    let (number, offset) = since.max(tail).unwrap_or_default();
    if number >= parts.len() {
        return Ok(None);
    }
    let mut file = parts.swap_remove(number).file;
    file.seek(SeekFrom::Start(offset))?;
    Ok(Some(file))
}

pub(super) fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

pub(super) fn open_if_there(path: &std::path::Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
