//! Tar archives, as POSIX (pax), GNU and old tars write them; read from a file, whose members are not unpacked to find
//! one of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

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

const BLOCK: usize = 512;
/// More members are no archive of disks or modules.
const MOST_MEMBERS: usize = 1 << 17;
/// A name is not longer, nor is a record of pax.
const LONGEST_NOTE: u64 = 64 << 10;
/// More pieces than any sparse file has that people pack.
const MOST_PIECES: usize = 1 << 20;
/// No path is longer (PATH_MAX).
const LONGEST_NAME: usize = 4096;
/// What all names in an archive take together, at most.
const MOST_OF_NAMES: usize = 64 << 20;

/// Whether a file begins as a tar archive does.
pub(crate) fn is_tar(first: &[u8]) -> bool {
    first.get(..BLOCK).is_some_and(|block| &block[257..262] == b"ustar" && checksum_is_right(block))
}

/// The files in an archive.
pub(crate) fn members(archive: &File) -> io::Result<Vec<TarMember>> {
    let length = archive.metadata()?.len();
    let mut reader = Members { archive, length, at: 0, name: None, size: None };
    let mut found = MemberList::default();
    for _ in 0..MOST_MEMBERS {
        match reader.next()? {
            Step::File(member) => found.add(member).map_err(damaged)?,
            Step::Other => {}
            Step::End => return Ok(found.members),
        }
    }
    Err(damaged("it has too many members"))
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

enum Step {
    File(TarMember),
    Other,
    End,
}

struct Members<'a> {
    archive: &'a File,
    length: u64,
    at: u64,
    /// What a note said of the member that comes next.
    name: Option<String>,
    size: Option<u64>,
}

impl Members<'_> {
    fn next(&mut self) -> io::Result<Step> {
        let Some(header) = self.block()? else { return Ok(Step::End) };
        if header.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        if !checksum_is_right(&header) {
            return Err(damaged("the checksum of a member is wrong"));
        }
        let stored = number(&header[124..136])?;
        match header[156] {
            b'L' => {
                let note = self.note(stored)?;
                self.name = Some(text(&note));
                Ok(Step::Other)
            }
            b'x' => {
                let note = self.note(stored)?;
                self.read_pax(&note)?;
                Ok(Step::Other)
            }
            kind => {
                let name = self.name.take().unwrap_or_else(|| name_of(&header));
                let stored = self.size.take().unwrap_or(stored);
                let (length, mut pieces) = match kind {
                    b'S' => self.sparse(&header)?,
                    _ => (stored, vec![Piece { at: 0, in_archive: 0, length: stored }]),
                };
                self.place(&mut pieces, stored)?;
                let is_file = matches!(kind, b'0' | b'7' | b'S' | 0) && !name.ends_with('/');
                Ok(if is_file { Step::File(TarMember { name, length, pieces }) } else { Step::Other })
            }
        }
    }

    /// Finds where pieces lie, one behind the other, and passes over them.
    fn place(&mut self, pieces: &mut [Piece], stored: u64) -> io::Result<()> {
        let end = self.at.checked_add(stored).filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| damaged("a member reaches past its end"))?;
        let mut at = self.at;
        for piece in pieces {
            piece.in_archive = at;
            at = at.checked_add(piece.length).filter(|at| *at <= end).ok_or_else(wrong_pieces)?;
        }
        self.at = end.next_multiple_of(BLOCK as u64);
        Ok(())
    }

    /// The map of a sparse file in GNU's old format: four pieces in the header, others in blocks behind it.
    fn sparse(&mut self, header: &[u8]) -> io::Result<(u64, Vec<Piece>)> {
        let length = number(&header[483..495])?;
        let mut pieces = Vec::new();
        add_pieces(&mut pieces, &header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let block = self.block()?.ok_or_else(wrong_pieces)?;
            add_pieces(&mut pieces, &block[..504])?;
            more = block[504] != 0;
        }
        let mut end = 0;
        for piece in &pieces {
            let next = piece.at.checked_add(piece.length).filter(|next| *next <= length && piece.at >= end);
            end = next.ok_or_else(wrong_pieces)?;
        }
        Ok((length, pieces))
    }

    fn read_pax(&mut self, note: &[u8]) -> io::Result<()> {
        let mut rest = note;
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ');
            let count =
                space.and_then(|space| std::str::from_utf8(&rest[..space]).ok()?.parse::<usize>().ok());
            let (Some(space), Some(count)) = (space, count) else { return Err(wrong_note()) };
            let record = rest.get(space + 1..count).ok_or_else(wrong_note)?;
            let record = text(record.strip_suffix(b"\n").unwrap_or(record));
            match record.split_once('=') {
                Some(("path", path)) => self.name = Some(path.to_owned()),
                Some(("size", size)) => self.size = Some(size.parse().map_err(|_| wrong_note())?),
                Some((key, _)) if key.starts_with("GNU.sparse.") => {
                    return Err(damaged("it has a sparse file in pax's format: use `tar --format=gnu`"));
                }
                _ => {}
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    /// The contents of a member that says something of the next.
    fn note(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > LONGEST_NOTE {
            return Err(damaged("it has a name that is too long"));
        }
        let mut note = Vec::new();
        let start = self.at;
        self.place(&mut [], length)?;
        ReadAt { file: self.archive, at: start }.take(length).read_to_end(&mut note)?;
        Ok(note)
    }

    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.at + BLOCK as u64 > self.length {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.archive.read_exact_at(&mut block, self.at)?;
        self.at += BLOCK as u64;
        Ok(Some(block))
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

fn add_pieces(pieces: &mut Vec<Piece>, map: &[u8]) -> io::Result<()> {
    for entry in map.chunks_exact(24).filter(|entry| entry[0] != 0) {
        if pieces.len() == MOST_PIECES {
            return Err(wrong_pieces());
        }
        pieces.push(Piece { at: number(&entry[..12])?, in_archive: 0, length: number(&entry[12..])? });
    }
    Ok(())
}

/// A number: octal digits, or, where the first bit is set, the other bits as they are.
fn number(field: &[u8]) -> io::Result<u64> {
    let wrong = || damaged("a number of a member is none");
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let fits = high.iter().enumerate().all(|(at, byte)| byte & if at == 0 { 0x7f } else { 0xff } == 0);
        let low: [u8; 8] = low.try_into().map_err(|_| wrong())?;
        return if fits { Ok(u64::from_be_bytes(low)) } else { Err(wrong()) };
    }
    let digits: Vec<u8> = field.iter().copied().filter(|byte| !matches!(byte, 0 | b' ')).collect();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
    u64::from_str_radix(digits, 8).map_err(|_| wrong())
}

fn name_of(header: &[u8]) -> String {
    let name = text(&header[..100]);
    // GNU's own format has other things there.
    let prefix = if &header[257..263] == b"ustar\0" { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn checksum_is_right(header: &[u8]) -> bool {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
        .sum();
    number(&header[148..156]).is_ok_and(|told| told == sum)
}

fn wrong_pieces() -> io::Error {
    damaged("the map of a sparse member is wrong")
}

fn wrong_note() -> io::Error {
    damaged("a note of pax cannot be read")
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
