//! A new file in which runs of zeroes are holes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use snafu::ResultExt;

use super::super::error::{Result, StorageSnafu};
use super::super::files;

/// So many bytes are a hole, or none of them.
const PIECE: usize = 64 << 10;

/// Writes a file from its start to its end.
pub(super) struct SparseWriter {
    file: File,
    path: PathBuf,
    piece: Vec<u8>,
    length: u64,
    stored: u64,
}

impl SparseWriter {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = files::create(path)?;
        Ok(Self { file, path: path.to_owned(), piece: vec![0; PIECE], length: 0, stored: 0 })
    }

    /// How long it is, holes included.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How much of it is no hole.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Takes the next piece from a reader; false if that was the last. The outer error is the reader's.
    pub(super) fn take_from(&mut self, reader: &mut impl Read) -> io::Result<Result<bool>> {
        let mut filled = 0;
        while filled < PIECE {
            match reader.read(&mut self.piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.put(filled).map(|()| filled == PIECE))
    }

    fn put(&mut self, filled: usize) -> Result<()> {
        let piece = &self.piece[..filled];
        if piece.iter().any(|byte| *byte != 0) {
            self.file
                .write_all_at(piece, self.length)
                .context(StorageSnafu { action: "write", path: &self.path })?;
            self.stored += filled as u64;
        }
        self.length += filled as u64;
        Ok(())
    }

    /// Leaves a hole.
    pub(super) fn skip_to(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// Gives the file its length: it may end with a hole.
    pub(super) fn finish(self) -> Result<()> {
        self.file.set_len(self.length).context(StorageSnafu { action: "write", path: &self.path })
    }
}
