//! The name of a kernel in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::ensure;

use super::error::{KernelsError, NameSnafu};

/// A kernel's name: a letter or digit, then letters, digits, `_`, `.` and `-`; at most 63 characters.
///
/// ```
/// use vmm::kernels::KernelName;
/// assert!("fast-6.12".parse::<KernelName>().is_ok());
/// assert!("../fast".parse::<KernelName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelName(String);

impl KernelName {
    /// What stands for the image's own kernel where a name is asked for.
    pub const OF_IMAGE: &'static str = "image";

    const LONGEST: usize = 63;

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KernelName {
    type Err = KernelsError;

    fn from_str(name: &str) -> Result<Self, KernelsError> {
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        // A folder of that end is a build that was cut short.
        let whole = !name.ends_with(crate::image::files::PARTIAL) && name != Self::OF_IMAGE;
        ensure!(first && plain && whole && name.len() <= Self::LONGEST, NameSnafu { name });
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for KernelName {
    type Error = KernelsError;

    fn try_from(name: String) -> Result<Self, KernelsError> {
        name.parse()
    }
}

impl From<KernelName> for String {
    fn from(name: KernelName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere_or_be_taken_for_something_else() {
        for name in ["fast", "6.12-a_b", "x"] {
            assert_eq!(name.parse::<KernelName>().unwrap().as_str(), name);
        }
        let long = "x".repeat(64);
        for name in ["", ".", "..", ".x", "a/b", "-x", "a b", "image", "fast.partial", "ü", &long] {
            assert!(name.parse::<KernelName>().is_err(), "{name}");
        }
    }
}
