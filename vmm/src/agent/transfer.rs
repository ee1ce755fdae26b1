//! Archives into the guest and out of it, on connections that carry nothing else.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use vmm_protocol::transfer::Outcome;
use vmm_protocol::{ErrorKind, PieceError, PieceReader, PieceWriter, Totals, header};

use super::AgentError;
use super::connect::Timed;
use super::error::{RefusalSnafu, printable};

/// How long a guest that was told that nothing more comes may take to clear up and say so.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// An archive that goes into the guest. What is written is its bytes; dropping it before it is finished leaves the guest
/// as it was.
#[derive(Debug)]
pub struct Upload<'a> {
    pieces: PieceWriter<Wire<'a>>,
    what: &'static str,
}

impl<'a> Upload<'a> {
    pub(super) fn new(stream: UnixStream, cancel: Option<BorrowedFd<'a>>, what: &'static str) -> Self {
        Self { pieces: PieceWriter::new(Wire { stream, cancel, listens: true }), what }
    }

    /// Ends the archive, and waits until the guest has put everything in its place.
    pub fn finish(self, totals: Totals) -> Result<Totals, AgentError> {
        let what = self.what;
        let stream = self.pieces.get_ref().stream.try_clone();
        let Ok((mut wire, _)) = self.pieces.finish(totals) else {
            // The guest may have said why.
            return Err(stream.map_or(AgentError::Lost { what }, |stream| reason(&stream, what)));
        };
        match header::read(&mut wire) {
            Ok(Outcome::Done(totals)) => Ok(totals),
            Ok(Outcome::Failed { kind, message }) => {
                RefusalSnafu { what, kind, message: printable(&message) }.fail()
            }
            Err(source) => Err(AgentError::from_header(what, source)),
        }
    }

    /// What the guest says of an archive that it does not take.
    pub fn refusal(self) -> AgentError {
        reason(&self.pieces.get_ref().stream, self.what)
    }

    /// Tells the guest that the archive does not go on, and returns when nothing is left of it there.
    pub fn give_up(self, kind: ErrorKind, message: String) {
        if let Ok(wire) = self.pieces.fail(kind, message) {
            let _ = reason(&wire.stream, self.what);
        }
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pieces.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pieces.flush()
    }
}

/// Why the guest ended a transfer.
fn reason(stream: &UnixStream, what: &'static str) -> AgentError {
    let _ = shutdown(stream, Shutdown::Write);
    let outcome = header::read(&mut Timed::new(stream, Instant::now().checked_add(END_TIMEOUT)));
    match outcome {
        Ok(Outcome::Failed { kind, message }) => {
            AgentError::Refusal { what, kind, message: printable(&message) }
        }
        Ok(Outcome::Done(_)) => AgentError::Unexpected { what },
        Err(source) => AgentError::from_header(what, source),
    }
}

/// An archive that comes out of the guest. What is read is its bytes, to an end that is only there if all of it came as
/// the guest sent it. All of it is hostile.
#[derive(Debug)]
pub struct Download<'a> {
    pieces: PieceReader<Wire<'a>>,
}

impl<'a> Download<'a> {
    pub(super) fn new(stream: UnixStream, cancel: Option<BorrowedFd<'a>>) -> Self {
        Self { pieces: PieceReader::new(Wire { stream, cancel, listens: false }) }
    }

    /// What the guest says of it, once it is read to its end.
    pub fn totals(&self) -> Option<&Totals> {
        self.pieces.totals()
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pieces.read(buffer)
    }
}

impl AgentError {
    /// Why an archive's stream failed.
    pub(crate) fn from_stream(what: &'static str, error: io::Error) -> Self {
        if !error.get_ref().is_some_and(|inner| inner.is::<PieceError>()) {
            return Self::from_io(what, error);
        }
        match error.into_inner().map(|inner| inner.downcast::<PieceError>()) {
            Some(Ok(source)) => match *source {
                PieceError::Failed { kind, message } => {
                    Self::Refusal { what, kind, message: printable(&message) }
                }
                PieceError::NoOutcome { source } => Self::from_header(what, source),
                source => Self::BadArchive { what, source },
            },
            _ => Self::Lost { what },
        }
    }
}

/// The connection, whose reads and writes end when they are cancelled.
#[derive(Debug)]
struct Wire<'a> {
    stream: UnixStream,
    cancel: Option<BorrowedFd<'a>>,
    /// A word of the guest's ends a write: it says that it takes no more.
    listens: bool,
}

impl Wire<'_> {
    /// Waits until something can be done, and says what.
    fn wait(&self, flags: PollFlags) -> io::Result<PollFlags> {
        let cancel = self.cancel.unwrap_or(self.stream.as_fd());
        let wanted = if self.cancel.is_some() { PollFlags::IN } else { PollFlags::empty() };
        loop {
            let mut fds = [PollFd::new(&self.stream, flags), PollFd::from_borrowed_fd(cancel, wanted)];
            match poll(&mut fds, None) {
                Ok(_) if fds[1].revents().contains(PollFlags::IN) => {
                    return Err(io::Error::other("cancelled"));
                }
                Ok(_) if !fds[0].revents().is_empty() => return Ok(fds[0].revents()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let listens = if self.listens { PollFlags::IN } else { PollFlags::empty() };
            if self.wait(PollFlags::OUT | listens)?.intersects(listens) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => return Ok(length),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
