//! What is written of a member before its data: a header, and a note of what does not fit into it.

use rustix::fs::Stat;

use crate::header::{Fields, MOST_IN_7, MOST_IN_11};
use crate::member::{Attribute, Time};
use crate::pax::{ATTRIBUTE, time_text, write_record};

/// All that an archive says of a member.
#[derive(Default)]
pub(super) struct Header<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// How much of it is in the archive.
    pub size: u64,
    pub modified: Time,
    pub link: &'a [u8],
    pub device: (u32, u32),
    pub attributes: Vec<Attribute>,
    /// How long a file with holes is, and what those call it who know nothing of holes.
    pub sparse: Option<u64>,
    pub sparse_name: Vec<u8>,
}

impl Header<'_> {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Time {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            ..Self::default()
        }
    }

    /// What does not fit into the header.
    pub(super) fn note(&self) -> Vec<u8> {
        let mut note = Vec::new();
        let mut say = |key: &str, value: &[u8]| write_record(&mut note, key.as_bytes(), value);
        if let Some(length) = self.sparse {
            say("GNU.sparse.major", b"1");
            say("GNU.sparse.minor", b"0");
            say("GNU.sparse.name", self.name);
            say("GNU.sparse.realsize", length.to_string().as_bytes());
        } else if self.name.len() > 100 {
            say("path", self.name);
        }
        if self.link.len() > 100 {
            say("linkpath", self.link);
        }
        if self.size > MOST_IN_11 {
            say("size", self.size.to_string().as_bytes());
        }
        for (key, number) in [("uid", self.uid), ("gid", self.gid)] {
            if u64::from(number) > MOST_IN_7 {
                say(key, number.to_string().as_bytes());
            }
        }
        let fits = u64::try_from(self.modified.seconds).is_ok_and(|seconds| seconds <= MOST_IN_11);
        if self.modified.nanoseconds != 0 || !fits {
            say("mtime", time_text(self.modified).as_bytes());
        }
        for attribute in &self.attributes {
            write_record(&mut note, &[ATTRIBUTE.as_bytes(), &attribute.name].concat(), &attribute.value);
        }
        note
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        Fields {
            name: if self.sparse.is_some() { &self.sparse_name } else { self.name },
            kind: self.kind,
            mode: self.mode,
            uid: self.uid.into(),
            gid: self.gid.into(),
            size: self.size,
            seconds: u64::try_from(self.modified.seconds).unwrap_or(0),
            link: self.link,
            device: self.device,
        }
    }
}
