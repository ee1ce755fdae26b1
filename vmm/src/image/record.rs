//! The store's JSON files: what they say of other files, and a checksum over themselves.

use std::path::{Component, Path};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The size above which no record is read.
pub(crate) const LARGEST: u64 = 1 << 20;

/// The version of the format that this program writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// What a file of the store must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Its name, beneath the folder of the record.
    pub(crate) name: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The digest of its contents.
    pub(crate) sha256: Digest,
}

impl FileRecord {
    /// Whether the name stays beneath the folder that it is taken from.
    pub(super) fn stays_beneath(&self) -> bool {
        !self.name.is_empty()
            && Path::new(&self.name).components().all(|part| matches!(part, Component::Normal(_)))
    }
}

/// What a record is refused for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A version of this program that this one does not know wrote it.
    Newer,
    /// It is not what was written.
    Damaged(&'static str),
}

/// Around every record: the version of its format, and its checksum.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: u32,
    checksum: String,
    #[serde(flatten)]
    record: T,
}

/// What stands in a checksum's place while it is computed.
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The bytes of a record.
///
/// The checksum is that of the file's own bytes with zeroes in its place, so that no byte can change unnoticed, not
/// even in fields that a later version adds.
pub(crate) fn to_bytes<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    let envelope = Envelope { format: FORMAT, checksum: NO_CHECKSUM.to_owned(), record };
    let mut text = serde_json::to_string_pretty(&envelope)?;
    text.push('\n');
    let checksum = Digest::of(text.as_bytes()).to_string();
    Ok(text.replacen(NO_CHECKSUM, &checksum, 1).into_bytes())
}

/// The record that some bytes are.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Damaged("it is no text"))?;
    let outside: Envelope<serde::de::IgnoredAny> =
        serde_json::from_str(text).map_err(|_| Refusal::Damaged("it is no record"))?;
    let blank = text.replacen(&outside.checksum, NO_CHECKSUM, 1);
    if Digest::of(blank.as_bytes()).to_string() != outside.checksum {
        return Err(Refusal::Damaged("its checksum is wrong"));
    }
    if outside.format > FORMAT {
        return Err(Refusal::Newer);
    }
    let envelope: Envelope<T> =
        serde_json::from_str(text).map_err(|_| Refusal::Damaged("it lacks what it must say"))?;
    Ok(envelope.record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> FileRecord {
        FileRecord { name: "vmlinux".into(), size: 3, sha256: Digest::of(b"abc") }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        assert_eq!(from_bytes::<FileRecord>(&to_bytes(&record()).unwrap()), Ok(record()));
    }

    #[test]
    fn no_byte_of_a_record_changes_unnoticed() {
        let bytes = to_bytes(&record()).unwrap();
        for index in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[index] ^= flip;
                assert!(
                    matches!(from_bytes::<FileRecord>(&changed), Err(Refusal::Damaged(_))),
                    "byte {index}"
                );
            }
        }
        for length in 0..bytes.len() {
            assert!(from_bytes::<FileRecord>(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn a_record_of_a_newer_format_is_told_from_a_damaged_one() {
        let text = String::from_utf8(to_bytes(&record()).unwrap()).unwrap();
        let (_, rest) = text.split_once("\"checksum\": \"").unwrap();
        let newer = text.replace(&rest[..64], NO_CHECKSUM).replace("\"format\": 1", "\"format\": 2");
        let checksum = Digest::of(newer.as_bytes()).to_string();
        let newer = newer.replace(NO_CHECKSUM, &checksum);
        assert_eq!(from_bytes::<FileRecord>(newer.as_bytes()), Err(Refusal::Newer));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_told() {
        for (name, beneath) in [
            ("vmlinux", true),
            ("modules/a.ko", true),
            ("", false),
            ("/etc/passwd", false),
            ("a/../../b", false),
        ] {
            let record = FileRecord { name: name.into(), ..record() };
            assert_eq!(record.stays_beneath(), beneath, "{name}");
        }
    }
}
