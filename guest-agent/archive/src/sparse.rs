//! Which parts of a sparse file an archive holds.

use crate::MOST_PIECES;
use crate::error::{Error, damaged};
use crate::header::{Block, number};
use crate::member::Piece;

const WRONG: &str = "the map of a sparse member is wrong";

/// The pieces of a file, in the order of their places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    pieces: Vec<Piece>,
    end: u64,
    stored: u64,
}

impl Map {
    /// Adds a piece, which lies behind the others.
    pub(crate) fn add(&mut self, piece: Piece) -> Result<(), Error> {
        let end = piece.at.checked_add(piece.length).filter(|_| piece.at >= self.end);
        let stored = self.stored.checked_add(piece.length);
        let (Some(end), Some(stored)) = (end, stored) else { return damaged(WRONG) };
        if self.pieces.len() == MOST_PIECES {
            return damaged("a member has too many pieces");
        }
        (self.end, self.stored) = (end, stored);
        // An empty one only says how long the file is.
        if piece.length > 0 {
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// The pieces, if a file of this length has them and so much of it is stored.
    pub(crate) fn of(self, length: u64, stored: u64) -> Result<Vec<Piece>, Error> {
        if self.end > length || self.stored != stored {
            return damaged(WRONG);
        }
        Ok(self.pieces)
    }

    /// Reads entries of GNU's old format, each two fields of 12 bytes.
    pub(crate) fn read_old(&mut self, entries: &[u8]) -> Result<(), Error> {
        for entry in entries.chunks_exact(24).filter(|entry| entry[0] != 0) {
            self.add(Piece { at: number(&entry[..12])?, length: number(&entry[12..])? })?;
        }
        Ok(())
    }
}

/// The entries in a header of GNU's old format, whether others follow in blocks of their own, and the file's length.
pub(crate) fn old_header(block: &Block) -> Result<(&[u8], bool, u64), Error> {
    Ok((&block[386..482], block[482] != 0, number(&block[483..495])?))
}

/// The same of a block that follows.
pub(crate) fn old_extension(block: &Block) -> (&[u8], bool) {
    (&block[..504], block[504] != 0)
}

/// The map as it stands before the data (GNU's sparse format 1.0): how many pieces, and then their places and lengths, a
/// number to a line.
pub(crate) fn map_text(pieces: &[Piece], length: u64) -> Vec<u8> {
    // GNU tar knows a hole at the end only by an empty piece behind it.
    let end = Piece { at: length, length: 0 };
    let ends_early = pieces.last().is_none_or(|last| last.at + last.length < length);
    let mut text = format!("{}\n", pieces.len() + usize::from(ends_early));
    for piece in pieces.iter().chain(ends_early.then_some(&end)) {
        text.push_str(&format!("{}\n{}\n", piece.at, piece.length));
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(crate::BLOCK), 0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_behind_each_other_and_within_the_file() {
        let map = |pieces: &[(u64, u64)]| {
            let mut map = Map::default();
            pieces.iter().try_for_each(|&(at, length)| map.add(Piece { at, length })).map(|()| map)
        };
        assert!(map(&[(0, 4), (4, 4)]).unwrap().of(8, 8).is_ok());
        assert!(map(&[(0, 4), (3, 4)]).is_err());
        assert!(map(&[(u64::MAX, 1)]).is_err());
        assert!(map(&[(0, 4)]).unwrap().of(3, 4).is_err());
        assert!(map(&[(0, 4)]).unwrap().of(8, 5).is_err());
        assert_eq!(map(&[(0, 4), (512, 0)]).unwrap().of(512, 4).unwrap().len(), 1);
    }
}
