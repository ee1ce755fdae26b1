//! An amount of memory, as people write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};

const MEBIBYTE: u64 = 1 << 20;

/// An amount of guest memory: a whole number of 2 MiB pages, at least [`MemorySize::MINIMUM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct MemorySize(u64);

/// Why an amount of memory is none.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum MemorySizeError {
    /// Not a number with a known unit.
    #[snafu(display("{text:?} is no amount of memory: write a number with M or G, such as 512M or 2G"))]
    Syntax {
        /// What was written.
        text: String,
    },
    /// A kernel does not boot in so little.
    #[snafu(display("{bytes} bytes of memory is too little to boot: give at least {}", MemorySize::MINIMUM))]
    TooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// More than any host has.
    #[snafu(display(
        "{bytes} bytes of memory is more than a machine can have: give at most {}",
        MemorySize::MAXIMUM
    ))]
    TooLarge {
        /// What was asked for.
        bytes: u64,
    },
}

impl MemorySize {
    /// The least with which the managed Alpine boots.
    pub const MINIMUM: Self = Self(96 * MEBIBYTE);
    /// The most that the memory map has room for.
    pub const MAXIMUM: Self = Self(1 << 40);

    /// Rounds up to a whole number of 2 MiB pages.
    pub fn from_bytes(bytes: u64) -> Result<Self, MemorySizeError> {
        ensure!(bytes >= Self::MINIMUM.0, TooSmallSnafu { bytes });
        ensure!(bytes <= Self::MAXIMUM.0, TooLargeSnafu { bytes });
        Ok(Self(bytes.next_multiple_of(2 * MEBIBYTE)))
    }

    /// A number of mebibytes.
    pub fn mebibytes(count: u64) -> Result<Self, MemorySizeError> {
        Self::from_bytes(count.saturating_mul(MEBIBYTE))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self(512 * MEBIBYTE)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 / MEBIBYTE;
        if mebibytes.is_multiple_of(1024) {
            write!(f, "{}G", mebibytes / 1024)
        } else {
            write!(f, "{mebibytes}M")
        }
    }
}

/// Reads a number with `K`, `M`, `G` or `T` (and perhaps `B` or `iB`), in powers of 1024; without a unit, mebibytes.
pub fn parse_bytes(text: &str) -> Result<u64, MemorySizeError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 1 << 10,
        "" | "m" | "mb" | "mib" => MEBIBYTE,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return SyntaxSnafu { text }.fail(),
    };
    let Ok(number) = number.parse::<u64>() else { return SyntaxSnafu { text }.fail() };
    Ok(number.saturating_mul(scale))
}

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    /// As [`parse_bytes`] reads it.
    fn from_str(text: &str) -> Result<Self, MemorySizeError> {
        Self::from_bytes(parse_bytes(text)?)
    }
}

impl TryFrom<u64> for MemorySize {
    type Error = MemorySizeError;

    fn try_from(bytes: u64) -> Result<Self, MemorySizeError> {
        Self::from_bytes(bytes)
    }
}

impl From<MemorySize> for u64 {
    fn from(size: MemorySize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, mebibytes) in [("512M", 512), ("512", 512), ("2g", 2048), ("1GiB", 1024), ("262144k", 256)]
        {
            assert_eq!(text.parse::<MemorySize>().unwrap().bytes(), mebibytes * MEBIBYTE, "{text}");
        }
    }

    #[test]
    fn a_size_is_a_whole_number_of_huge_pages() {
        assert_eq!(MemorySize::mebibytes(129).unwrap().to_string(), "130M");
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        assert_eq!(
            "1M".parse::<MemorySize>().unwrap_err().to_string(),
            "1048576 bytes of memory is too little to boot: give at least 96M"
        );
        assert!("".parse::<MemorySize>().is_err());
        assert!("-1G".parse::<MemorySize>().is_err());
        assert!("12 parsecs".parse::<MemorySize>().is_err());
        assert!("99999999999999999999G".parse::<MemorySize>().is_err());
        assert!("99999999999999G".parse::<MemorySize>().is_err());
    }
}
