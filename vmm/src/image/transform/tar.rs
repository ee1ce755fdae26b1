//! Tar archives, as POSIX (pax), GNU and old tars write them; read from a file, whose members are not unpacked to find
//! one of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use vmm_archive::{Input, Kind, LONGEST_NAME, Reader};

pub(crate) use vmm_archive::is_tar;

/// A member of an archive that is a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TarMember {
    /// Its name, as it stands there.
    pub(crate) name: String,
    /// How long it is.
    pub(crate) length: u64,
    /// Its pieces: where they belong in it, where they are in the archive, and how long they are.
    pub(crate) pieces: Vec<Piece>,
}

/// A piece of a member; what lies between pieces is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) in_archive: u64,
    pub(crate) length: u64,
}

/// More members are no archive of disks or modules.
const MOST_MEMBERS: usize = 1 << 17;
/// More pieces than any sparse file has that people pack.
const MOST_PIECES: usize = 1 << 20;
/// What all names in an archive take together, at most.
const MOST_OF_NAMES: usize = 64 << 20;

/// The files in an archive.
pub(crate) fn members(archive: &File) -> io::Result<Vec<TarMember>> {
    let length = archive.metadata()?.len();
    let mut reader = Reader::new(Whole { archive, at: 0 }).without_end_mark();
    let mut found = MemberList::default();
    for _ in 0..MOST_MEMBERS {
        let Some(member) = reader.next().map_err(unreadable)? else { return Ok(found.members) };
        if member.kind != Kind::File {
            continue;
        }
        let mut in_archive = reader.input().at;
        let pieces = member.pieces.iter().map(|piece| {
            let placed = Piece { at: piece.at, in_archive, length: piece.length };
            in_archive = in_archive.saturating_add(piece.length);
            placed
        });
        let pieces = pieces.collect();
        if in_archive > length {
            return Err(damaged("a member reaches past its end"));
        }
        let name = String::from_utf8_lossy(&member.name).into_owned();
        found.add(TarMember { name, length: member.length, pieces }).map_err(damaged)?;
    }
    Err(damaged("it has too many members"))
}

/// An archive in a file, in which what is passed over is not read.
struct Whole<'a> {
    archive: &'a File,
    at: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Input for Whole<'_> {
    fn pass_over(&mut self, length: u64) -> io::Result<()> {
        // Behind its end there is nothing to read.
        self.at = self.at.saturating_add(length);
        Ok(())
    }
}

/// The files in an archive, no more than have room in memory.
#[derive(Default)]
pub(crate) struct MemberList {
    pub(crate) members: Vec<TarMember>,
    names: usize,
    pieces: usize,
}

impl MemberList {
    /// Adds a file. The error is what is wrong with the archive.
    pub(crate) fn add(&mut self, member: TarMember) -> Result<(), &'static str> {
        self.names += member.name.len();
        self.pieces += member.pieces.len();
        if member.name.len() > LONGEST_NAME || self.names > MOST_OF_NAMES {
            return Err("its names are too long");
        }
        if self.pieces > MOST_PIECES {
            return Err("its members have too many pieces");
        }
        self.members.push(member);
        Ok(())
    }
}

/// Reads a file from some place on, wherever its own position is.
pub(crate) struct ReadAt<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn unreadable(error: vmm_archive::Error) -> io::Error {
    match error {
        vmm_archive::Error::Damaged { what } => damaged(what),
        vmm_archive::Error::Stream { source } => source,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the tar archive cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: usize, pieces: usize) -> TarMember {
        let piece = Piece { at: 0, in_archive: 0, length: 0 };
        TarMember { name: "a".repeat(name), length: 0, pieces: vec![piece; pieces] }
    }

    #[test]
    fn all_members_together_have_a_bound() {
        let mut list = MemberList::default();
        for _ in 0..MOST_OF_NAMES / LONGEST_NAME {
            list.add(member(LONGEST_NAME, 1)).unwrap();
        }
        assert!(list.add(member(1, 1)).is_err(), "the names take too much");
        assert!(MemberList::default().add(member(LONGEST_NAME + 1, 1)).is_err());
        let mut list = MemberList::default();
        list.add(member(1, MOST_PIECES)).unwrap();
        assert!(list.add(member(1, 1)).is_err(), "the pieces are too many");
    }
}
