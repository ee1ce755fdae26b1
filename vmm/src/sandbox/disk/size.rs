//! The size of a disk, as people write it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use snafu::{Snafu, ensure};

use crate::machine::parse_bytes;

/// The size of a disk: a whole number of mebibytes, so that every sector size and file system is content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskSize(u64);

/// Why this is no size of a disk.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum DiskSizeError {
    /// Not a number with a known unit.
    #[snafu(display("{text:?} is no size of a disk: write a number with M, G or T, such as 512M or 20G"))]
    Syntax {
        /// What was written.
        text: String,
    },
    /// Nothing, or more than a disk can hold.
    #[snafu(display("a disk has between 1M and 64T, not {text}"))]
    Range {
        /// What was written.
        text: String,
    },
}

const MEBIBYTE: u64 = 1 << 20;

/// Larger ones would need tables that do not fit into memory.
const LARGEST: u64 = 64 << 40;

impl DiskSize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Serialize for DiskSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for DiskSize {
    type Err = DiskSizeError;

    fn from_str(text: &str) -> Result<Self, DiskSizeError> {
        let bytes = parse_bytes(text).map_err(|_| SyntaxSnafu { text }.build())?;
        let bytes = bytes.checked_next_multiple_of(MEBIBYTE).unwrap_or(u64::MAX);
        ensure!((MEBIBYTE..=LARGEST).contains(&bytes), RangeSnafu { text });
        Ok(Self(bytes))
    }
}

impl fmt::Display for DiskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 / MEBIBYTE;
        match mebibytes.is_multiple_of(1024) {
            true => write!(f, "{}G", mebibytes / 1024),
            false => write!(f, "{mebibytes}M"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, size) in
            [("1M", 1 << 20), ("20G", 20 << 30), ("1T", 1 << 40), ("1025K", 2 << 20), ("64", 64 << 20)]
        {
            assert_eq!(text.parse(), Ok(DiskSize(size)), "{text}");
        }
        assert_eq!("20G".parse::<DiskSize>().unwrap().to_string(), "20G");
        assert_eq!("1536M".parse::<DiskSize>().unwrap().to_string(), "1536M");
        for text in ["", "G", "-1G", "1X", "T"] {
            assert!(matches!(text.parse::<DiskSize>(), Err(DiskSizeError::Syntax { .. })), "{text}");
        }
        for text in ["0", "65T"] {
            assert!(matches!(text.parse::<DiskSize>(), Err(DiskSizeError::Range { .. })), "{text}");
        }
    }
}
