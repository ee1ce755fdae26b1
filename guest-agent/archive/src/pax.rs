//! Notes of pax: records such as `30 mtime=1350244992.023960108`, before the member that they are about.

use crate::LONGEST_NAME;
use crate::error::{Error, damaged};
use crate::member::{Attribute, Piece, Time};
use crate::sparse::Map;

const WRONG: &str = "a note of pax cannot be read";

/// What the names of extended attributes stand behind.
pub(crate) const ATTRIBUTE: &str = "SCHILY.xattr.";

/// What a note says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<Time>,
    pub attributes: Vec<Attribute>,
    pub sparse: Sparse,
}

/// What a note says of a sparse file, in one of the three ways of GNU tar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sparse {
    /// 1: the map stands before the data.
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// How long the file is.
    pub length: Option<u64>,
    /// The map, where it stands in the note.
    pub map: Map,
    /// A piece of which only the place is known so far.
    begun: Option<u64>,
}

impl Note {
    /// Reads records over those that are known.
    pub(crate) fn read(&mut self, mut rest: &[u8]) -> Result<(), Error> {
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ');
            let Some((space, length)) = space.and_then(|space| Some((space, decimal(&rest[..space])?)))
            else {
                return damaged(WRONG);
            };
            let end = usize::try_from(length).unwrap_or(usize::MAX);
            let record = rest.get(space + 1..end).and_then(|record| record.strip_suffix(b"\n"));
            let Some(record) = record else { return damaged(WRONG) };
            let Some(equals) = record.iter().position(|byte| *byte == b'=') else { return damaged(WRONG) };
            self.record(&record[..equals], &record[equals + 1..])?;
            rest = &rest[end..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let number = || decimal(value).map_or_else(|| damaged(WRONG), |number| Ok(Some(number)));
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => match time(value) {
                Some(time) => self.modified = Some(time),
                None => return damaged(WRONG),
            },
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.length = number()?,
            b"GNU.sparse.offset" => self.sparse.begun = number()?,
            b"GNU.sparse.numbytes" => match (self.sparse.begun.take(), decimal(value)) {
                (Some(at), Some(length)) => self.sparse.map.add(Piece { at, length })?,
                _ => return damaged(WRONG),
            },
            b"GNU.sparse.map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(at) = numbers.next() {
                    match (decimal(at), numbers.next().and_then(decimal)) {
                        (Some(at), Some(length)) => self.sparse.map.add(Piece { at, length })?,
                        _ => return damaged(WRONG),
                    }
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE.as_bytes()) {
                    if name.is_empty() || name.contains(&0) {
                        return damaged(WRONG);
                    }
                    self.attributes.push(Attribute { name: name.to_vec(), value: value.to_vec() });
                }
            }
        }
        Ok(())
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, Error> {
    if value.len() > LONGEST_NAME {
        return damaged("it has a name that is too long");
    }
    Ok(value.to_vec())
}

/// A number in decimal digits, without a sign.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with a fraction, perhaps before 1970.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A time as a record has it.
pub(crate) fn time_text(time: Time) -> String {
    let Time { seconds, nanoseconds } = time;
    let (sign, seconds, nanoseconds) = match nanoseconds {
        _ if seconds >= 0 => ("", seconds.unsigned_abs(), nanoseconds),
        0 => ("-", seconds.unsigned_abs(), 0),
        _ => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Adds a record, whose length counts itself.
pub(crate) fn write_record(note: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    note.extend_from_slice(format!("{length} ").as_bytes());
    note.extend_from_slice(key);
    note.push(b'=');
    note.extend_from_slice(value);
    note.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_tells_its_own_length() {
        for length in [0, 1, 90, 91, 92, 93, 94, 989, 990, 991, 992] {
            let mut note = Vec::new();
            write_record(&mut note, b"path", &vec![b'x'; length]);
            let mut read = Note::default();
            read.read(&note).unwrap();
            assert_eq!(read.path.unwrap().len(), length);
        }
    }

    #[test]
    fn a_value_may_have_any_byte() {
        let mut note = Vec::new();
        write_record(&mut note, b"SCHILY.xattr.user.x", b"a=b\n\0c");
        let mut read = Note::default();
        read.read(&note).unwrap();
        assert_eq!(read.attributes[0].value, b"a=b\n\0c");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for note in [
            &b"x"[..],
            b"5 a=b",
            b"99 a=b\n",
            b"0 a=b\n",
            b"1 \n",
            b"4 ab\n",
            b"18446744073709551615 a=b\n",
            b"9 size=-1\n",
            b"11 mtime=1x\n",
            b"22 GNU.sparse.map=1,2,3\n",
        ] {
            assert!(Note::default().read(note).is_err(), "{:?}", String::from_utf8_lossy(note));
        }
    }

    #[test]
    fn times_before_1970_have_a_fraction_that_counts_on() {
        let time = |text: &str| super::time(text.as_bytes());
        assert_eq!(time("-1.5"), Some(Time { seconds: -2, nanoseconds: 500_000_000 }));
        assert_eq!(time("1.000000001999"), Some(Time { seconds: 1, nanoseconds: 1 }));
        assert_eq!(time("1.-5"), None);
        assert_eq!(time(""), None);
    }

    proptest! {
        #[test]
        fn a_time_reads_as_it_is_written(seconds in -(1i64 << 40)..1i64 << 40, nanoseconds in 0u32..1_000_000_000) {
            let time = Time { seconds, nanoseconds };
            prop_assert_eq!(super::time(time_text(time).as_bytes()), Some(time));
        }
    }
}
