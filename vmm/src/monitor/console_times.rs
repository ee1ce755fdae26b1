//! Records when the guest wrote what is in its console's log: [`ConsoleTime`].

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::home::{CONSOLE_TIME_INTERVAL, ConsoleTime, Timestamp, VmFolder};

/// When the list is this long, the log is exchanged as if it were full: a guest that writes a byte a second fills the list
/// first, after half a day.
const LIMIT: u64 = 1 << 20;

/// The list of moments of one log. That it cannot be written costs `vmm logs --since` its precision, and nothing else.
pub(super) struct ConsoleTimes {
    path: PathBuf,
    older: PathBuf,
    file: Option<File>,
    length: u64,
    last: Option<Instant>,
}

impl ConsoleTimes {
    /// Goes on with the list of a log of this length.
    pub(super) fn new(folder: &VmFolder, log_length: u64) -> Self {
        let (path, older) = (folder.console_times(), folder.console_times_older());
        let list = fs::read_to_string(&path).unwrap_or_default();
        let ends_in_order = list.is_empty() || list.ends_with('\n');
        let known = ConsoleTime::parse_list(&list, log_length).len();
        // One that knows more than there is belonged to a log that was exchanged, and was not exchanged with it.
        let is_ours = ends_in_order && known == list.lines().count();
        let file = if is_ours { open(&path) } else { create(&path) };
        let length = if is_ours { list.len() as u64 } else { 0 };
        Self { path, older, file: file.ok(), length, last: None }
    }

    /// What is written next begins here.
    pub(super) fn note(&mut self, offset: u64) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < CONSOLE_TIME_INTERVAL) {
            return;
        }
        self.last = Some(now);
        let line = ConsoleTime { at: Timestamp::now(), offset }.to_line();
        if let Some(file) = &mut self.file
            && file.write_all(line.as_bytes()).is_ok()
        {
            self.length += line.len() as u64;
        }
    }

    /// Whether the log is to be exchanged.
    pub(super) fn is_full(&self) -> bool {
        self.length >= LIMIT
    }

    /// The log has become the older one.
    pub(super) fn rotate(&mut self) {
        if fs::rename(&self.path, &self.older).is_err() {
            // That of a log before it would tell wrong times of this one.
            let _ = fs::remove_file(&self.older);
        }
        self.file = create(&self.path).ok();
        self.length = 0;
        self.last = None;
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Begins a list anew.
fn create(path: &PathBuf) -> io::Result<File> {
    let file = open(path)?;
    file.set_len(0)?;
    Ok(file)
}
