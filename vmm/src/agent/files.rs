//! Single files and folders of the guest, and its processes: answers that come in pages. All of them are hostile.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_protocol::{
    Answer, ByteString, Change, FileInfo, FileRequest, FolderEntry, GuestProcess, KernelRecord, PieceReader,
    Reply, Request, header,
};

use snafu::ensure;

use super::AgentError;
use super::client::AgentClient;
use super::error::{RefusalSnafu, UnexpectedSnafu, printable};
use super::wire::{Cancel, Wire};

/// No agent looks at what processes do for longer.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// More processes than this are not taken from a guest.
const MOST_PROCESSES: usize = 1 << 16;

/// A kernel that says how long each of its steps takes keeps 1 MiB of words.
const LONGEST_LOG: usize = 16 << 20;

/// What a line of a kernel's log takes beside its words.
const RECORD_COST: usize = 64;

impl AgentClient {
    /// What a file is; with `follow`, what a symbolic link leads to.
    pub fn stat(&self, path: ByteString, follow: bool) -> Result<FileInfo, AgentError> {
        let what = "look at a file in the guest";
        match self.ask_for_file(what, FileRequest::Stat { path, follow })? {
            Reply::File(info) if info.is_sound() => Ok(info),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// What is in a folder, page by page.
    pub fn list(&self, path: ByteString, cancel: Option<Arc<dyn Cancel>>) -> Result<Listing, AgentError> {
        let what = "list a folder in the guest";
        Ok(Listing(self.pages(what, &Request::File(FileRequest::List { path }), cancel)?))
    }

    /// A part of a file: fewer bytes than asked for where it ends before.
    pub fn read(
        &self,
        path: ByteString,
        offset: u64,
        length: usize,
    ) -> Result<(FileInfo, Vec<u8>), AgentError> {
        let what = "read a file in the guest";
        let request = FileRequest::Read { path, offset, length: length as u64 };
        let (stream, reply) = self.open_younger(what, &Request::File(request))?;
        let Reply::Contents(info) = reply else { return UnexpectedSnafu { what }.fail() };
        let mut pieces = PieceReader::new(Wire::new(stream, None).flowing(self.answer_timeout()));
        let mut bytes = Vec::new();
        let read = (&mut pieces).take((length as u64).saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| AgentError::from_stream(what, error))?;
        if bytes.len() > length || pieces.totals().is_none() || !info.is_sound() {
            return UnexpectedSnafu { what }.fail();
        }
        Ok((info, bytes))
    }

    /// Removes a file, or with `tree` a folder and all that is in it.
    pub fn remove(
        &self,
        path: ByteString,
        tree: bool,
        cancel: Option<Arc<dyn Cancel>>,
    ) -> Result<(), AgentError> {
        let what = "remove a file in the guest";
        let mut pages = self.pages(what, &Request::File(FileRequest::Remove { path, tree }), cancel)?;
        loop {
            match pages.next()? {
                Reply::Done => return Ok(()),
                // Only a tree takes its time.
                Reply::Going { .. } if tree => {}
                _ => return UnexpectedSnafu { what }.fail(),
            }
        }
    }

    /// Makes a folder; with `parents`, those that it is in too.
    pub fn make_folder(&self, path: ByteString, parents: bool, mode: Option<u32>) -> Result<(), AgentError> {
        self.change_file("make a folder in the guest", FileRequest::MakeFolder { path, parents, mode })
    }

    /// Gives a file or folder another name.
    pub fn rename(&self, from: ByteString, to: ByteString) -> Result<(), AgentError> {
        self.change_file("rename a file in the guest", FileRequest::Rename { from, to })
    }

    /// What changes in a folder, or of a file, from the return of this on.
    pub fn watch(
        &self,
        path: ByteString,
        recursive: bool,
        cancel: Option<Arc<dyn Cancel>>,
    ) -> Result<Watching, AgentError> {
        let what = "watch a folder in the guest";
        let mut pages = self.pages(what, &Request::File(FileRequest::Watch { path, recursive }), cancel)?;
        match pages.next()? {
            Reply::Watching => Ok(Watching(pages)),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    /// All processes of the guest. For `over` it is looked at what they do, 10 s at most. Their text is as the guest gave it.
    pub fn guest_processes(&self, over: Duration) -> Result<Vec<GuestProcess>, AgentError> {
        let what = "list the guest's processes";
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
        let mut pages = self.pages(what, &Request::GuestProcesses { over_ms }, None)?;
        let mut processes: Vec<GuestProcess> = Vec::new();
        // Of all pages together: one process in each would last for days.
        let deadline = Instant::now() + over.min(LONGEST_LOOK) + self.answer_timeout();
        loop {
            match pages.next()? {
                Reply::Done => return Ok(processes),
                _ if Instant::now() > deadline => return Err(AgentError::Deadline { what }),
                Reply::GuestProcesses(page)
                    if !page.is_empty()
                        && processes.len() + page.len() <= MOST_PROCESSES
                        && page.iter().all(GuestProcess::is_sound) =>
                {
                    processes.extend(page);
                }
                _ => return UnexpectedSnafu { what }.fail(),
            }
        }
    }

    /// What the guest's kernel said, as much as it keeps of that. Their text is as the guest gave it.
    pub fn kernel_log(&self) -> Result<Vec<KernelRecord>, AgentError> {
        let what = "read the log of the guest's kernel";
        let mut pages = self.pages(what, &Request::KernelLog, None)?;
        let mut records: Vec<KernelRecord> = Vec::new();
        let mut bytes = 0;
        // Of all pages together.
        let deadline = Instant::now() + self.answer_timeout();
        loop {
            match pages.next()? {
                Reply::Done => return Ok(records),
                _ if Instant::now() > deadline => return Err(AgentError::Deadline { what }),
                Reply::KernelLog(page) if !page.is_empty() && page.iter().all(KernelRecord::is_sound) => {
                    bytes +=
                        page.iter().map(|record| RECORD_COST + record.text.as_bytes().len()).sum::<usize>();
                    ensure!(bytes <= LONGEST_LOG, UnexpectedSnafu { what });
                    records.extend(page);
                }
                _ => return UnexpectedSnafu { what }.fail(),
            }
        }
    }

    fn ask_for_file(&self, what: &'static str, request: FileRequest) -> Result<Reply, AgentError> {
        self.open_younger(what, &Request::File(request)).map(|(_, reply)| reply)
    }

    fn change_file(&self, what: &'static str, request: FileRequest) -> Result<(), AgentError> {
        match self.ask_for_file(what, request)? {
            Reply::Done => Ok(()),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }

    fn pages(
        &self,
        what: &'static str,
        request: &Request,
        cancel: Option<Arc<dyn Cancel>>,
    ) -> Result<Pages, AgentError> {
        let (stream, first) = self.open_younger(what, request)?;
        let wire = Wire::new(stream, cancel);
        Ok(Pages { wire, first: Some(first), what, timeout: self.answer_timeout() })
    }
}

/// Answers that come one after the other on a connection.
#[derive(Debug)]
struct Pages {
    wire: Wire,
    first: Option<Reply>,
    what: &'static str,
    /// How long each may take.
    timeout: Duration,
}

impl Pages {
    fn next(&mut self) -> Result<Reply, AgentError> {
        let what = self.what;
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        self.wire.wait_no_longer_than(self.timeout);
        match header::read(&mut self.wire).map_err(|source| AgentError::from_header(what, source))? {
            Answer::Ok(reply) => Ok(reply),
            Answer::Error { kind, message } => {
                RefusalSnafu { what, kind, message: printable(&message) }.fail()
            }
        }
    }
}

/// What is in a folder.
#[derive(Debug)]
pub struct Listing(Pages);

impl Listing {
    /// Some more of it; none at the end. Names are such as a file in a folder can have.
    pub fn next_page(&mut self) -> Result<Option<Vec<FolderEntry>>, AgentError> {
        match self.0.next()? {
            Reply::Done => Ok(None),
            Reply::Entries(page) if !page.is_empty() && page.iter().all(FolderEntry::is_sound) => {
                Ok(Some(page))
            }
            _ => UnexpectedSnafu { what: self.0.what }.fail(),
        }
    }
}

/// What changes.
#[derive(Debug)]
pub struct Watching(Pages);

impl Watching {
    /// Waits for changes, however long there are none. None when what is watched is gone. Paths lead beneath it.
    pub fn next_page(&mut self) -> Result<Option<Vec<Change>>, AgentError> {
        let what = self.0.what;
        self.0.wire.wait_for_word().map_err(|error| AgentError::from_io(what, error))?;
        match self.0.next()? {
            Reply::Done => Ok(None),
            Reply::Changes(page) if !page.is_empty() && page.iter().all(Change::is_sound) => Ok(Some(page)),
            _ => UnexpectedSnafu { what }.fail(),
        }
    }
}
