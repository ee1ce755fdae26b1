//! A VM's immutable id, and the name that points to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};

/// The length of an id.
const ID_LENGTH: usize = 12;

/// The longest name: it becomes a host name (RFC 1123, 2.1).
const NAME_LENGTH: usize = 63;

/// A VM's id: twelve hexadecimal digits, drawn at random, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

impl VmId {
    /// Draws a new one.
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut bytes = [0u8; ID_LENGTH / 2];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        debug_assert_eq!(filled, bytes.len());
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for VmId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        ensure!(digits && text.len() == ID_LENGTH, NotAnIdSnafu { text });
        Ok(Self(text))
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0
    }
}

/// A VM's name: a letter or digit, then letters, digits, `_`, `.` and `-`; at most 63 characters.
///
/// ```
/// use vmm::home::VmName;
/// assert!("web-1".parse::<VmName>().is_ok());
/// assert!("../web".parse::<VmName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        ensure!(name.len() <= NAME_LENGTH, TooLongSnafu { name });
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        ensure!(first && rest, CharactersSnafu { name });
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

/// Why a text is no name, or no id.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum InvalidName {
    /// A character that a name cannot have, or none at all.
    #[snafu(display(
        "{name:?} cannot be a VM's name: use letters, digits, '_', '.' and '-', beginning with a letter or digit"
    ))]
    Characters {
        /// What was given.
        name: String,
    },
    /// Too long.
    #[snafu(display("{name:?} cannot be a VM's name: it has more than 63 characters"))]
    TooLong {
        /// What was given.
        name: String,
    },
    /// Not twelve hexadecimal digits.
    #[snafu(display("{text:?} is no id of a VM"))]
    NotAnId {
        /// What was given.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_a_path_and_a_host_name_can_be() {
        for good in ["a", "0", "web", "Web_1.x-y", &"a".repeat(63)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "_a", ".a", "a/b", "../a", "a b", "a\0", "ä", "a\n", &"a".repeat(64)]
        {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_twelve_hexadecimal_digits() {
        let id = VmId::random().unwrap();
        assert_eq!(VmId::try_from(id.to_string()).unwrap(), id);
        assert_ne!(VmId::random().unwrap(), id);
        for bad in ["", "0123456789a", "0123456789abc", "0123456789aB", "../../../../x"] {
            assert!(VmId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hostile_file_cannot_name_a_path() {
        assert!(serde_json::from_str::<VmName>("\"../x\"").is_err());
        assert!(serde_json::from_str::<VmId>("\"../x\"").is_err());
    }
}
