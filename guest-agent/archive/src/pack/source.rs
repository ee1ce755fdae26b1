//! What the system says of a file beside its contents: where its holes are, and its extended attributes.

use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, Stat, fgetxattr, flistxattr, seek};
use rustix::io::Errno;

use crate::MOST_PIECES;
use crate::member::{Attribute, Piece};

/// The parts of a file that hold something.
pub(super) fn pieces(file: &File, length: u64, stat: &Stat) -> Vec<Piece> {
    let whole = vec![Piece { at: 0, length }];
    let stored = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if stored >= length {
        return whole;
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing more.
            Err(Errno::NXIO) => return pieces,
            Err(_) => return whole,
        };
        let Ok(end) = seek(file, SeekFrom::Hole(data)) else { return whole };
        if data >= length || end <= data {
            return pieces;
        }
        let last = pieces.len() + 1 == MOST_PIECES;
        let end = if last { length } else { end.min(length) };
        pieces.push(Piece { at: data, length: end - data });
        at = end;
    }
    pieces
}

/// The extended attributes that an archive is to have: not those by which this system's security labels its files.
pub(super) fn attributes(file: BorrowedFd<'_>) -> Result<Vec<Attribute>, Errno> {
    /// The kernel's own limits of the list and of a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
    const LONGEST: usize = 64 << 10;
    let mut list = [0; 1024];
    let names = match flistxattr(file, &mut list[..]) {
        Ok(length) => list[..length].to_vec(),
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut list = vec![0; LONGEST];
            let length = flistxattr(file, &mut list[..])?;
            list.truncate(length);
            list
        }
        Err(errno) => return Err(errno),
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let mut value = vec![0; LONGEST];
        match fgetxattr(file, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                attributes.push(Attribute { name: name.to_vec(), value });
            }
            // It was removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(attributes)
}

fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || [&b"security.capability"[..], b"system.posix_acl_access", b"system.posix_acl_default"]
            .contains(&name)
}
