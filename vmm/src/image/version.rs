//! The version of an image: its distribution's version, a date, and what tells two builds of one day apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{OptionExt, Snafu, ensure};

/// `MAJOR.MINOR.PATCH-DATE-SHA`, such as `3.23.6-20261014-fdf9327`.
///
/// The date is that of the catalog entry or the build, `SHA` the first seven digits of the commit it was built from,
/// or of the digest of its contents where there is no commit. Versions are ordered by their parts, from left to
/// right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageVersion {
    major: u32,
    minor: u32,
    patch: u32,
    date: u32,
    revision: u32,
}

/// Why a text is no image version.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{text:?} is no image version: write it as MAJOR.MINOR.PATCH-YYYYMMDD-abcdef0"))]
pub struct ImageVersionError {
    text: String,
}

/// Whether something that was made with one version of an image works with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// It is the same.
    Same,
    /// It should: only the patch, the date or the build differ. Whoever goes on says so to the user.
    Near,
    /// It is another release, and nobody can tell.
    Other,
}

impl ImageVersion {
    /// Whether state that was made with `other` goes with this version.
    pub fn compatibility(&self, other: &Self) -> Compatibility {
        if self == other {
            Compatibility::Same
        } else if (self.major, self.minor) == (other.major, other.minor) {
            Compatibility::Near
        } else {
            Compatibility::Other
        }
    }

    /// The same build under another release's numbers: what a user calls a version of their own.
    pub(super) fn with_release(self, release: [u32; 3]) -> Self {
        let [major, minor, patch] = release;
        Self { major, minor, patch, ..self }
    }

    /// Itself, or, where that is not later, the version after `other`.
    pub(super) fn later_than(self, other: Self) -> Self {
        if self > other {
            return self;
        }
        Self { revision: Self::LAST_REVISION.min(other.revision + 1), ..other }
    }

    /// The largest revision: seven hexadecimal digits.
    const LAST_REVISION: u32 = 0x0fff_ffff;

    /// Made from its parts; the catalog's own constants. A test parses each of them back.
    pub(crate) const fn from_parts(release: [u32; 3], date: u32, revision: u32) -> Self {
        let [major, minor, patch] = release;
        Self { major, minor, patch, date, revision: revision & Self::LAST_REVISION }
    }

    /// The release, and the date as the digits of YYYYMMDD.
    pub(super) fn day(&self) -> ([u32; 3], u32) {
        (self.release(), self.date)
    }

    /// `MAJOR`, `MINOR` and `PATCH`.
    pub fn release(&self) -> [u32; 3] {
        [self.major, self.minor, self.patch]
    }
}

impl fmt::Display for ImageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch, date, revision } = self;
        write!(f, "{major}.{minor}.{patch}-{date:08}-{revision:07x}")
    }
}

impl FromStr for ImageVersion {
    type Err = ImageVersionError;

    fn from_str(text: &str) -> Result<Self, ImageVersionError> {
        let refused = || ImageVersionSnafu { text: shortened(text) };
        let mut parts = text.split('-');
        let (Some(release), Some(date), Some(revision), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return refused().fail();
        };
        let release = parse_release(release).with_context(refused)?;
        let &[major, minor, patch] = release.as_slice() else { return refused().fail() };
        ensure!(date.len() == 8, refused());
        let date = parse_number(date).with_context(refused)?;
        let (month, day) = (date / 100 % 100, date % 100);
        ensure!((1..=12).contains(&month) && (1..=31).contains(&day), refused());
        let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        ensure!(revision.len() == 7 && revision.chars().all(hexadecimal), refused());
        let revision = u32::from_str_radix(revision, 16).ok().with_context(refused)?;
        Ok(Self { major, minor, patch, date, revision })
    }
}

impl TryFrom<String> for ImageVersion {
    type Error = ImageVersionError;

    fn try_from(text: String) -> Result<Self, ImageVersionError> {
        text.parse()
    }
}

impl From<ImageVersion> for String {
    fn from(version: ImageVersion) -> Self {
        version.to_string()
    }
}

/// One to three numbers with dots between them, written without signs or leading zeroes.
pub(super) fn parse_release(text: &str) -> Option<Vec<u32>> {
    let parts: Vec<&str> = text.splitn(4, '.').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.len() > 1 && part.starts_with('0')) {
        return None;
    }
    parts.into_iter().map(parse_number).collect()
}

fn parse_number(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// What a refusal quotes of a text, however long that is.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_is_written_as_it_is_read() {
        let text = "3.23.6-20261012-1a2b3c4";
        let version: ImageVersion = text.parse().unwrap();
        assert_eq!(version.to_string(), text);
        assert_eq!(version.release(), [3, 23, 6]);
        assert_eq!(serde_json::to_string(&version).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<ImageVersion>(&format!("{text:?}")).unwrap(), version);
    }

    #[test]
    fn versions_are_ordered_by_number_and_not_by_letter() {
        let ordered = [
            "3.9.12-20250101-fffffff",
            "3.23.5-20261012-fffffff",
            "3.23.6-20261012-1a2b3c4",
            "3.23.6-20261013-0000000",
            "10.0.0-20200101-0000000",
        ];
        let versions: Vec<ImageVersion> = ordered.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
    }

    #[test]
    fn another_minor_release_is_refused_and_another_patch_is_near() {
        let compatibility = |one: &str, other: &str| {
            one.parse::<ImageVersion>().unwrap().compatibility(&other.parse().unwrap())
        };
        let version = "3.23.6-20261012-1a2b3c4";
        for (other, expected) in [
            (version, Compatibility::Same),
            ("3.23.5-20261012-1a2b3c4", Compatibility::Near),
            ("3.23.6-20261013-1a2b3c4", Compatibility::Near),
            ("3.23.6-20261012-1a2b3c5", Compatibility::Near),
            ("3.24.6-20261012-1a2b3c4", Compatibility::Other),
            ("4.23.6-20261012-1a2b3c4", Compatibility::Other),
        ] {
            assert_eq!(compatibility(version, other), expected, "{other}");
            assert_eq!(compatibility(other, version), expected, "{other}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "3.23.6",
            "3.23-20261012-1a2b3c4",
            "3.23.6.1-20261012-1a2b3c4",
            "3.23.6-20261312-1a2b3c4",
            "3.23.6-20261000-1a2b3c4",
            "3.23.6-261012-1a2b3c4",
            "3.23.6-20261012-1A2B3C4",
            "3.23.6-20261012-1a2b3c",
            "3.23.6-20261012-1a2b3c4-",
            "+3.23.6-20261012-1a2b3c4",
            "03.23.6-20261012-1a2b3c4",
            "99999999999.23.6-20261012-1a2b3c4",
        ] {
            assert!(text.parse::<ImageVersion>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser_and_what_it_takes_it_writes(text in "\\PC{0,40}|[0-9.]{1,8}-[0-9]{8}-[0-9a-f]{7}") {
            if let Ok(version) = text.parse::<ImageVersion>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
