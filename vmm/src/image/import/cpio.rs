//! The archives of initial file systems: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::transform::tar::{MemberList, Piece, TarMember};

/// An initial file system is not made of more archives.
pub(super) const MOST_ARCHIVES: usize = 8;

const HEADER: usize = 110;
const MOST_MEMBERS: usize = 1 << 17;
const LONGEST_NAME: u64 = 4096;
/// The bits of a mode that tell a kind of file, and the kind that is wanted.
const KIND: u64 = 0o170_000;
const FILE: u64 = 0o100_000;

/// Whether a file begins as such an archive does.
pub(super) fn is_cpio(first: &[u8]) -> bool {
    first.starts_with(b"070701") || first.starts_with(b"070702")
}

/// The files in the archive at the start of a file, and where what lies behind it begins: at the end of the file, if
/// that is nothing.
pub(super) fn members(file: &File) -> io::Result<(Vec<TarMember>, u64)> {
    let length = file.metadata()?.len();
    let mut found = MemberList::default();
    let mut at = 0;
    for _ in 0..MOST_MEMBERS {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, at)?;
        if !is_cpio(&header) {
            return Err(damaged("a member has the wrong mark"));
        }
        let (mode, size, name_length) = (field(&header, 1)?, field(&header, 6)?, field(&header, 11)?);
        if name_length == 0 || name_length > LONGEST_NAME {
            return Err(damaged("a name is too long"));
        }
        let mut name = vec![0; usize::try_from(name_length).unwrap_or_default()];
        file.read_exact_at(&mut name, at + HEADER as u64)?;
        let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned();
        let data = (at + HEADER as u64 + name_length).next_multiple_of(4);
        if data + size > length {
            return Err(damaged("a member reaches past its end"));
        }
        at = (data + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            return Ok((found.members, behind(file, at, length)?));
        }
        if mode & KIND == FILE {
            let piece = Piece { at: 0, in_archive: data, length: size };
            found.add(TarMember { name, length: size, pieces: vec![piece] }).map_err(damaged)?;
        }
    }
    Err(damaged("it has too many members"))
}

/// The first place from `at` on that is not zero: archives are padded.
fn behind(file: &File, mut at: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    while at < length {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        if let Some(found) = buffer[..count].iter().position(|byte| *byte != 0) {
            return Ok(at + found as u64);
        }
        at += count as u64;
    }
    Ok(length)
}

/// A field of the header: eight hexadecimal digits.
fn field(header: &[u8], number: usize) -> io::Result<u64> {
    let digits = std::str::from_utf8(&header[6 + number * 8..14 + number * 8]).ok();
    let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    value.ok_or_else(|| damaged("a number of a member is none"))
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the cpio archive cannot be read: {what}"))
}
