//! Records what the guest writes to its console: in a file of bounded size, and its last part in memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::net::RecvFlags;

use super::console_times::ConsoleTimes;
use crate::home::{CONTINUED, VmFolder};

/// When the file is this long it becomes the older one, whose place is then free: twice this much is kept.
const FILE_LIMIT: u64 = 4 << 20;

/// How much of the end is kept for reports.
const TAIL: usize = 4096;

/// No more lines than this are shown in a report.
const TAIL_LINES: usize = 20;

/// What a Linux kernel says when it dies.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// How much is read at once.
const READ: usize = 32 << 10;

/// The recorder of one console.
pub(super) struct Console {
    socket: OwnedFd,
    path: PathBuf,
    older: PathBuf,
    file: Option<File>,
    length: u64,
    times: ConsoleTimes,
    tail: Vec<u8>,
    /// What the kernel said when it died, from the line that says so.
    panic: Option<Vec<u8>>,
    /// The last write to the file failed, and that was told.
    failing: bool,
    limit: u64,
}

/// What a look at the console found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Something new.
    Output,
    /// Nothing for now.
    Nothing,
    /// The machine has closed it.
    End,
}

impl Console {
    /// Records what comes out of `socket`, behind what earlier runs wrote.
    pub(super) fn new(socket: OwnedFd, folder: &VmFolder) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let (path, older) = (folder.console_log(), folder.console_log_older());
        let file = File::options().create(true).append(true).mode(0o600).open(&path)?;
        let length = file.metadata()?.len();
        let file = Some(file);
        let times = ConsoleTimes::new(folder, length);
        Ok(Self {
            socket,
            path,
            older,
            file,
            length,
            times,
            tail: Vec::new(),
            panic: None,
            failing: false,
            limit: FILE_LIMIT,
        })
    }

    /// Takes what is there, and lets it be heard.
    pub(super) fn read(&mut self, hear: impl FnOnce(&[u8])) -> Found {
        let mut bytes = [0; READ];
        match rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT)
        }) {
            Ok((0, _)) => Found::End,
            Ok((length, _)) => {
                self.record(&bytes[..length]);
                hear(&bytes[..length]);
                Found::Output
            }
            Err(rustix::io::Errno::AGAIN) => Found::Nothing,
            Err(_) => Found::End,
        }
    }

    /// Takes what is still there after the machine has ended, within reason.
    pub(super) fn drain(&mut self, mut hear: impl FnMut(&[u8])) {
        for _ in 0..256 {
            if self.read(&mut hear) != Found::Output {
                break;
            }
        }
    }

    fn record(&mut self, bytes: &[u8]) {
        let before = self.tail.len();
        self.tail.extend_from_slice(bytes);
        self.notice_panic(before);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        match self.write(bytes) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!("cannot record the console in {}: {error}", self.path.display());
            }
            // A full disk must not fill the log as well.
            Err(_) => {}
        }
    }

    /// Keeps the start of a panic, whose trace is longer than any tail. What is new begins at `before`.
    fn notice_panic(&mut self, before: usize) {
        if let Some(panic) = &mut self.panic {
            let news = &self.tail[before..];
            let room = TAIL.saturating_sub(panic.len());
            panic.extend_from_slice(&news[..news.len().min(room)]);
            return;
        }
        // What began earlier ends in what is new.
        let searched = before.saturating_sub(PANIC.len());
        let found = self.tail[searched..].windows(PANIC.len()).position(|window| window == PANIC);
        let Some(found) = found.map(|found| searched + found) else { return };
        let start = self.tail[..found].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let end = self.tail.len().min(start + TAIL);
        self.panic = Some(self.tail[start..end].to_vec());
    }

    /// Whether the guest's kernel said that it died. A guest's program can say so, too.
    pub(super) fn has_panicked(&self) -> bool {
        self.panic.is_some()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length >= self.limit || self.times.is_full() || self.file.is_none() {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        self.times.note(self.length);
        file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        match fs::rename(&self.path, &self.older) {
            // An earlier attempt came so far, and then could not make the new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
        self.times.rotate();
        let mut file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
        file.write_all(CONTINUED)?;
        self.length = CONTINUED.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// What was written last, as it was written.
    pub(super) fn last(&self) -> &[u8] {
        &self.tail
    }

    /// The last lines, or the first of a panic, fit for a terminal: the guest wrote them.
    pub(super) fn tail(&self) -> String {
        let (text, whole) = match &self.panic {
            Some(panic) => (panic, true),
            None => (&self.tail, self.tail.len() < TAIL),
        };
        let text = String::from_utf8_lossy(text);
        let printable: String = text
            .chars()
            .filter(|&c| c != '\r')
            .map(|c| if c == '\n' || c == '\t' || !(c.is_control() || is_bidi(c)) { c } else { '\u{fffd}' })
            .collect();
        let mut lines: Vec<&str> = printable.lines().collect();
        if !whole && lines.len() > 1 {
            // The first is half a line.
            lines.remove(0);
        }
        if self.panic.is_some() {
            lines.truncate(TAIL_LINES);
        }
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Turns the direction of the text around it.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use std::os::unix::net::UnixStream;

    fn console(limit: u64) -> (tempfile::TempDir, UnixStream, Console) {
        let base = tempfile::tempdir().unwrap();
        let home = Home::open(base.path()).unwrap();
        let held = home.create(None).unwrap();
        let (guest, ours) = UnixStream::pair().unwrap();
        let mut console = Console::new(ours.into(), held.folder()).unwrap();
        console.limit = limit;
        (base, guest, console)
    }

    #[test]
    fn what_the_guest_writes_is_in_the_file_and_in_the_tail() {
        let (_base, mut guest, mut console) = console(FILE_LIMIT);
        assert_eq!(console.read(|_| ()), Found::Nothing);
        guest.write_all(b"one\r\ntwo\x1b[31m\n").unwrap();
        assert_eq!(console.read(|_| ()), Found::Output);
        assert_eq!(fs::read(&console.path).unwrap(), b"one\r\ntwo\x1b[31m\n");
        assert_eq!(console.tail(), "one\ntwo\u{fffd}[31m");
        // Not closed: until its exec, a child that another test starts may hold a copy of the descriptor.
        guest.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(console.read(|_| ()), Found::End);
    }

    #[test]
    fn that_and_when_it_was_written_is_known_also_of_what_an_exchange_of_files_made_older() {
        let (_base, mut guest, mut console) = console(1000);
        for _ in 0..150 {
            guest.write_all(b"ten bytes\n").unwrap();
            console.drain(|_| ());
        }
        let list = |path: &str| {
            let path = console.path.with_file_name(path);
            crate::home::ConsoleTime::parse_list(&fs::read_to_string(path).unwrap(), u64::MAX)
        };
        // All within a second, so each file has its first moment only.
        let [older, newer] = [list("console.times.1"), list("console.times")];
        assert_eq!((older[0].offset, newer[0].offset), (0, CONTINUED.len() as u64));
        assert!(older.len() <= 3 && newer.len() <= 3, "{older:?} {newer:?}");
        assert!(newer[0].at.elapsed().as_secs() < 60);
    }

    #[test]
    fn a_console_whose_next_file_could_not_be_made_is_recorded_again_later() {
        let (_base, mut guest, mut console) = console(FILE_LIMIT);
        // Given a change of files that came half way, as on a full disk.
        fs::rename(&console.path, &console.older).unwrap();
        console.file = None;
        guest.write_all(b"later\n").unwrap();
        console.drain(|_| ());
        assert!(fs::read(&console.path).unwrap().ends_with(b"later\n"));
    }

    #[test]
    fn a_panic_is_shown_from_its_first_line_however_long_its_trace_is() {
        let (_base, mut guest, mut console) = console(FILE_LIMIT);
        for piece in
            ["before\n[    4.9] Kernel pan", "ic - not syncing: no init\r\n", &"trace\n".repeat(2000)]
        {
            assert!(!console.has_panicked() || piece.starts_with("trace"));
            guest.write_all(piece.as_bytes()).unwrap();
            console.drain(|_| ());
        }
        assert!(console.has_panicked());
        let tail = console.tail();
        assert!(tail.starts_with("[    4.9] Kernel panic - not syncing: no init\ntrace\n"), "{tail}");
        assert_eq!(tail.lines().count(), TAIL_LINES);
    }

    #[test]
    fn a_guest_that_never_stops_writing_fills_two_files_and_no_more() {
        let (_base, mut guest, mut console) = console(1000);
        for line in 0..1000 {
            writeln!(guest, "line {line}").unwrap();
            console.drain(|_| ());
        }
        let length = |path| fs::metadata(path).unwrap().len();
        assert!(length(&console.path) <= 1100 && length(&console.older) <= 1100);
        let older = fs::read_to_string(&console.older).unwrap();
        assert!(older.starts_with(std::str::from_utf8(CONTINUED).unwrap()));
        let newer = fs::read_to_string(&console.path).unwrap();
        let both = older + newer.strip_prefix(std::str::from_utf8(CONTINUED).unwrap()).unwrap();
        assert!(both.ends_with("line 998\nline 999\n"), "{both}");
        assert_eq!(console.tail().lines().count(), TAIL_LINES);
    }
}
