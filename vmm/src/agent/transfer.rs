//! Archives into the guest and out of it, on connections that carry nothing else.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use vmm_protocol::transfer::Outcome;
use vmm_protocol::{ErrorKind, PieceError, PieceReader, PieceWriter, Totals, header};

use super::AgentError;
use super::connect::Timed;
use super::error::{RefusalSnafu, printable};
use super::wire::Wire;

/// How long a guest that was told that nothing more comes may take to clear up and say so.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// An archive that goes into the guest. What is written is its bytes; dropping it before it is finished leaves the guest
/// as it was.
#[derive(Debug)]
pub struct Upload {
    pieces: PieceWriter<Wire>,
    what: &'static str,
}

impl Upload {
    pub(super) fn new(wire: Wire, what: &'static str) -> Self {
        Self { pieces: PieceWriter::new(wire.listening()), what }
    }

    /// Ends the archive, and waits until the guest has put everything in its place.
    pub fn finish(self, totals: Totals) -> Result<Totals, AgentError> {
        let what = self.what;
        let stream = self.pieces.get_ref().stream().try_clone();
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
        reason(self.pieces.get_ref().stream(), self.what)
    }

    /// Tells the guest that the archive does not go on, and returns when nothing is left of it there.
    pub fn give_up(self, kind: ErrorKind, message: String) {
        if let Ok(wire) = self.pieces.fail(kind, message) {
            let _ = reason(wire.stream(), self.what);
        }
    }
}

impl Write for Upload {
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
pub struct Download {
    pieces: PieceReader<Wire>,
}

impl Download {
    pub(super) fn new(wire: Wire) -> Self {
        Self { pieces: PieceReader::new(wire) }
    }

    /// What the guest says of it, once it is read to its end.
    pub fn totals(&self) -> Option<&Totals> {
        self.pieces.totals()
    }
}

impl Read for Download {
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
