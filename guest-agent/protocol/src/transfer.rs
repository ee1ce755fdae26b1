//! Files between host and guest: what is asked for, and how a tar archive lies on the connection.
//!
//! An archive is sent in pieces: a 32-bit little-endian length, at most [`MAX_PIECE`], and so many bytes. A piece of
//! length 0 is the end, behind which comes an [`Outcome`] as a header. So a connection that breaks is never taken for an
//! end, and whoever cannot go on says why.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use snafu::Snafu;
use twox_hash::XxHash64;

use crate::{ByteString, ErrorKind, HeaderError, header};

/// No piece is longer.
pub const MAX_PIECE: usize = 256 * 1024;

/// A transfer, seen from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transfer {
    /// Files come into the guest: after [`Reply::Transferring`](crate::Reply::Transferring) the client sends an archive
    /// and its outcome, and the agent says what became of it.
    Unpack(Unpack),
    /// Files go out of the guest: after [`Reply::Transferring`](crate::Reply::Transferring) the agent sends an archive and
    /// its outcome.
    Pack(Pack),
}

/// How files come into the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    /// Where to. A path that is relative begins in root's home.
    pub path: ByteString,
    /// What the archive holds, which decides what the path may be.
    pub holds: Holds,
    /// Whose they become: `user`, `user:group`, `uid` or `uid:gid`. Whose they were, by number, when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Set-user-id and set-group-id bits and capabilities are kept.
    #[serde(default)]
    pub set_id: bool,
    /// Devices and pipes are made.
    #[serde(default)]
    pub devices: bool,
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// One file or tree, which takes the path's name, or goes into the folder that is there.
    One,
    /// One file, which takes the path's name. No folder is there.
    File,
    /// Several, which go into the folder that must be there.
    Several,
    /// An archive of a stranger's: what is in it goes into the folder that is there, or into a new one.
    Anything,
}

/// How files go out of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Which. Paths that are relative begin in root's home.
    pub paths: Vec<ByteString>,
    /// A path that is a symbolic link stands for what it leads to.
    #[serde(default)]
    pub follow: bool,
    /// Devices and pipes are packed; they are refused otherwise.
    #[serde(default)]
    pub devices: bool,
}

/// How a transfer ended, told by each side that has sent or unpacked an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything is sent, or unpacked and in its place.
    Done(Totals),
    /// It is not, and the archive is not whole.
    Failed {
        /// Why, for programs.
        kind: ErrorKind,
        /// Why, for people.
        message: String,
    },
}

/// What went through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Files, folders, links and others.
    pub entries: u64,
    /// The length of the archive.
    pub bytes: u64,
    /// XXH64 of the archive, seed 0, in 16 hexadecimal digits.
    pub xxh64: String,
    /// Sockets that were left out: an archive has no words for them.
    pub sockets: u64,
    /// Files whose set-user-id and set-group-id bits were taken.
    pub set_id_taken: u64,
    /// Extended attributes that the target's file system does not have.
    pub attributes_lost: u64,
}

/// Why an archive did not come through.
#[derive(Debug, Snafu)]
pub enum PieceError {
    /// A piece is too long.
    #[snafu(display("a piece of {length} bytes is longer than the {MAX_PIECE} that are allowed"))]
    TooLong {
        /// What it says.
        length: u32,
    },
    /// The outcome is none.
    #[snafu(display("{source}"))]
    NoOutcome {
        /// Why.
        source: HeaderError,
    },
    /// What arrived is not what was sent.
    #[snafu(display("what arrived is not what was sent: its checksum or its length differs"))]
    Differs,
    /// The sender could not go on.
    #[snafu(display("{message}"))]
    Failed {
        /// Why, for programs.
        kind: ErrorKind,
        /// Why, for people; from the peer.
        message: String,
    },
}

impl From<PieceError> for io::Error {
    fn from(error: PieceError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Counts and sums bytes.
#[derive(Debug)]
struct Sum {
    bytes: u64,
    hash: XxHash64,
}

impl Sum {
    fn new() -> Self {
        Self { bytes: 0, hash: XxHash64::with_seed(0) }
    }

    fn add(&mut self, bytes: &[u8]) {
        use std::hash::Hasher;
        self.bytes += bytes.len() as u64;
        self.hash.write(bytes);
    }

    fn digits(&self) -> String {
        use std::hash::Hasher;
        format!("{:016x}", self.hash.finish())
    }
}

/// Sends an archive in pieces.
#[derive(Debug)]
pub struct PieceWriter<W> {
    inner: W,
    /// A piece with room for its length before it.
    piece: Vec<u8>,
    sum: Sum,
}

/// The length before a piece.
const LENGTH_SIZE: usize = 4;

impl<W: Write> PieceWriter<W> {
    /// Sends to a connection.
    pub fn new(inner: W) -> Self {
        Self { inner, piece: vec![0; LENGTH_SIZE], sum: Sum::new() }
    }

    /// The connection.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    /// Ends the archive.
    pub fn finish(mut self, mut totals: Totals) -> Result<(W, Totals), HeaderError> {
        self.send().map_err(|source| HeaderError::Transfer { source })?;
        totals.bytes = self.sum.bytes;
        totals.xxh64 = self.sum.digits();
        self.end(&Outcome::Done(totals.clone()))?;
        Ok((self.inner, totals))
    }

    /// Says that the archive ends here because something failed.
    pub fn fail(mut self, kind: ErrorKind, message: String) -> Result<W, HeaderError> {
        self.end(&Outcome::Failed { kind, message })?;
        Ok(self.inner)
    }

    fn end(&mut self, outcome: &Outcome) -> Result<(), HeaderError> {
        // In one write: what is sent is a packet each time.
        let bytes = [&[0; LENGTH_SIZE][..], &header::encode(outcome)?].concat();
        let sent = self.inner.write_all(&bytes).and_then(|()| self.inner.flush());
        sent.map_err(|source| HeaderError::Transfer { source })
    }

    fn send(&mut self) -> io::Result<()> {
        let length = self.piece.len() - LENGTH_SIZE;
        if length == 0 {
            return Ok(());
        }
        self.sum.add(&self.piece[LENGTH_SIZE..]);
        let told = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.piece[..LENGTH_SIZE].copy_from_slice(&told);
        let sent = self.inner.write_all(&self.piece);
        self.piece.truncate(LENGTH_SIZE);
        sent
    }
}

impl<W: Write> Write for PieceWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_PIECE + LENGTH_SIZE - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.inner.flush()
    }
}

/// Receives an archive in pieces. It reads to the end only if everything came as it was sent: what the sender could not
/// send, and what was changed on the way, is an error that holds a [`PieceError`].
#[derive(Debug)]
pub struct PieceReader<R> {
    inner: R,
    /// What is left of the current piece.
    left: usize,
    sum: Sum,
    totals: Option<Totals>,
}

impl<R: Read> PieceReader<R> {
    /// Receives from a connection.
    pub fn new(inner: R) -> Self {
        Self { inner, left: 0, sum: Sum::new(), totals: None }
    }

    /// What the sender says of the archive, once it is read to its end.
    pub fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    fn begin_piece(&mut self) -> io::Result<()> {
        let mut length = [0; LENGTH_SIZE];
        self.inner.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        self.left = usize::try_from(length).unwrap_or(usize::MAX);
        if self.left > MAX_PIECE {
            self.left = 0;
            return Err(PieceError::TooLong { length }.into());
        }
        if self.left == 0 {
            self.totals = Some(self.outcome()?);
        }
        Ok(())
    }

    fn outcome(&mut self) -> io::Result<Totals> {
        match header::read(&mut self.inner) {
            Ok(Outcome::Done(totals)) => {
                let same = totals.bytes == self.sum.bytes && totals.xxh64 == self.sum.digits();
                if same { Ok(totals) } else { Err(PieceError::Differs.into()) }
            }
            Ok(Outcome::Failed { kind, message }) => Err(PieceError::Failed { kind, message }.into()),
            Err(HeaderError::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(HeaderError::Transfer { source }) => Err(source),
            Err(source) => Err(PieceError::NoOutcome { source }.into()),
        }
    }
}

impl<R: Read> Read for PieceReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.totals.is_some() {
            return Ok(0);
        }
        if self.left == 0 {
            self.begin_piece()?;
            if self.totals.is_some() {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.left);
        let length = self.inner.read(&mut buffer[..length])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= length;
        self.sum.add(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(bytes: &[u8]) -> Vec<u8> {
        let mut writer = PieceWriter::new(Vec::new());
        writer.write_all(bytes).unwrap();
        writer.finish(Totals { entries: 3, ..Totals::default() }).unwrap().0
    }

    fn received(stream: &[u8]) -> io::Result<(Vec<u8>, Totals)> {
        let mut reader = PieceReader::new(stream);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok((bytes, reader.totals().unwrap().clone()))
    }

    fn reason(error: &io::Error) -> Option<&PieceError> {
        error.get_ref()?.downcast_ref()
    }

    #[test]
    fn an_archive_arrives_as_it_was_sent() {
        for length in [0, 1, MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE] {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (arrived, totals) = received(&sent(&bytes)).unwrap();
            assert!(arrived == bytes && totals.bytes == length as u64 && totals.entries == 3);
        }
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_no_archive() {
        let stream = sent(b"something of an archive");
        for length in 0..stream.len() {
            let error = received(&stream[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }

    #[test]
    fn bytes_that_were_changed_are_seen() {
        let mut stream = sent(b"something of an archive");
        stream[8] ^= 1;
        assert!(matches!(reason(&received(&stream).unwrap_err()), Some(PieceError::Differs)));
    }

    #[test]
    fn a_piece_that_is_too_long_is_refused_at_once() {
        let length = u32::try_from(MAX_PIECE + 1).unwrap();
        let error = received(&length.to_le_bytes()).unwrap_err();
        assert!(matches!(reason(&error), Some(PieceError::TooLong { length: told }) if *told == length));
    }

    #[test]
    fn a_sender_that_cannot_go_on_says_why() {
        let mut writer = PieceWriter::new(Vec::new());
        writer.write_all(b"half").unwrap();
        let stream = writer.fail(ErrorKind::NoSuchFile, "gone".into()).unwrap();
        let error = received(&stream).unwrap_err();
        assert!(matches!(
            reason(&error),
            Some(PieceError::Failed { kind: ErrorKind::NoSuchFile, message }) if message == "gone"
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = received(&bytes);
        }
    }
}
