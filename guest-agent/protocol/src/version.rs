//! The protocol's version, which the first header of every connection carries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `MAJOR.MINOR`. Two sides understand each other when their MAJOR is the same; a new MINOR only adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// Another one of these is another language.
    pub major: u16,
    /// Counts what was added since.
    pub minor: u16,
}

impl Version {
    /// Whether a peer of that version can be spoken to.
    #[must_use]
    pub fn understands(self, other: Self) -> bool {
        self.major == other.major
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Text that is no `MAJOR.MINOR`.
#[derive(Debug, PartialEq, Eq)]
pub struct NoVersion;

impl fmt::Display for NoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a protocol version is written MAJOR.MINOR")
    }
}

impl std::error::Error for NoVersion {}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let (major, minor) = text.split_once('.').ok_or(NoVersion)?;
        let number = |text: &str| {
            // `parse` alone would take a sign.
            if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
        };
        Ok(Self { major: number(major).ok_or(NoVersion)?, minor: number(minor).ok_or(NoVersion)? })
    }
}

impl TryFrom<String> for Version {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_as_it_is_written() {
        let version = Version { major: 12, minor: 3 };
        assert_eq!(version.to_string().parse(), Ok(version));
        for wrong in ["", "1", "1.", ".1", "1.2.3", "+1.0", "1.-2", "1.65536", "a.b"] {
            assert_eq!(wrong.parse::<Version>(), Err(NoVersion), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_major_number_decides_whether_two_understand_each_other() {
        let version = |major, minor| Version { major, minor };
        assert!(version(1, 0).understands(version(1, 7)));
        assert!(!version(1, 7).understands(version(2, 7)));
    }
}
