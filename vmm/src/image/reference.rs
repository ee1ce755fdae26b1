//! How a user names an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};

use super::version::{ImageVersion, parse_release, shortened};

/// The name of an image: lower-case letters, digits and `.`, `_`, `-`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// An image as a user names it: `alpine`, `alpine:3.23` or `alpine:3.23.6-20261014-fdf9327`.
///
/// ```
/// use vmm::image::ImageRef;
///
/// let image: ImageRef = "alpine:3.23".parse()?;
/// assert_eq!(image.name().as_str(), "alpine");
/// assert!("../alpine".parse::<ImageRef>().is_err());
/// # Ok::<(), vmm::image::ImageRefError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    name: ImageName,
    version: VersionRequest,
}

/// Which versions of an image will do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum VersionRequest {
    /// Any; the newest is taken.
    Any,
    /// Those of a release: one to three of its numbers.
    Release(Vec<u32>),
    /// This one.
    Exact(ImageVersion),
}

/// Why a text names no image.
#[derive(Debug, Snafu, PartialEq, Eq)]
pub enum ImageRefError {
    /// The part before the colon.
    #[snafu(display(
        "{text:?} is no image name: use lower-case letters, digits and . _ - (at most {} of them), such as alpine",
        ImageName::LONGEST
    ))]
    Name {
        /// What was written.
        text: String,
    },
    /// The part behind the colon.
    #[snafu(display("{text:?} is no version of an image: write it as in {name} or {name}:3.23"))]
    Version {
        /// The image's name.
        name: String,
        /// What was written.
        text: String,
    },
}

impl ImageName {
    /// The longest name, in bytes.
    pub const LONGEST: usize = 63;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = text.bytes().next().is_some_and(plain)
            && text.len() <= Self::LONGEST
            && text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
        ensure!(valid, NameSnafu { text: shortened(text) });
        Ok(Self(text.to_owned()))
    }
}

impl Default for ImageRef {
    /// The image of those who name none.
    fn default() -> Self {
        Self { name: ImageName("alpine".to_owned()), version: VersionRequest::Any }
    }
}

impl ImageRef {
    /// The reference that only this image fits.
    pub fn exact(name: ImageName, version: ImageVersion) -> Self {
        Self { name, version: VersionRequest::Exact(version) }
    }

    /// The image's name.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// Whether only one version will do.
    pub fn is_exact(&self) -> bool {
        self.exact_version().is_some()
    }

    /// The only version that will do, if there is only one.
    pub(super) fn exact_version(&self) -> Option<ImageVersion> {
        match self.version {
            VersionRequest::Exact(version) => Some(version),
            VersionRequest::Any | VersionRequest::Release(_) => None,
        }
    }

    /// The version that this names for a build that has one already: its release, where one is given, or all of it.
    pub(super) fn version_for(&self, build: ImageVersion) -> ImageVersion {
        match &self.version {
            VersionRequest::Any => build,
            VersionRequest::Exact(exact) => *exact,
            VersionRequest::Release(numbers) => {
                let mut release = [0; 3];
                for (part, number) in release.iter_mut().zip(numbers) {
                    *part = *number;
                }
                build.with_release(release)
            }
        }
    }

    /// Whether an image of this version will do.
    pub fn fits(&self, version: &ImageVersion) -> bool {
        match &self.version {
            VersionRequest::Any => true,
            VersionRequest::Release(numbers) => version.release().starts_with(numbers),
            VersionRequest::Exact(exact) => exact == version,
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match &self.version {
            VersionRequest::Any => Ok(()),
            VersionRequest::Exact(version) => write!(f, ":{version}"),
            VersionRequest::Release(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, ":{}", numbers.join("."))
            }
        }
    }
}

/// What may stand for any version, which is the newest.
const LATEST: &str = "latest";

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let Some((name, version)) = text.split_once(':') else {
            return Ok(Self { name: text.parse()?, version: VersionRequest::Any });
        };
        let name: ImageName = name.parse()?;
        // A habit of those who come from containers; it says what no version says.
        if version == LATEST {
            return Ok(Self { name, version: VersionRequest::Any });
        }
        let version = match (parse_release(version), version.parse()) {
            (Some(numbers), _) => VersionRequest::Release(numbers),
            (None, Ok(exact)) => VersionRequest::Exact(exact),
            (None, Err(_)) => return VersionSnafu { name: name.0, text: shortened(version) }.fail(),
        };
        Ok(Self { name, version })
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_fits_the_versions_it_means() {
        let version: ImageVersion = "3.23.6-20261012-1a2b3c4".parse().unwrap();
        for text in [
            "alpine",
            "alpine:latest",
            "alpine:3",
            "alpine:3.23",
            "alpine:3.23.6",
            "alpine:3.23.6-20261012-1a2b3c4",
        ] {
            assert!(text.parse::<ImageRef>().unwrap().fits(&version), "{text}");
        }
        for text in ["alpine:2", "alpine:3.2", "alpine:3.23.5", "alpine:3.23.6-20261012-1a2b3c5"] {
            assert!(!text.parse::<ImageRef>().unwrap().fits(&version), "{text}");
        }
    }

    #[test]
    fn the_image_of_those_who_name_none_is_alpine() {
        assert_eq!("alpine".parse(), Ok(ImageRef::default()));
    }

    #[test]
    fn what_names_no_image_is_refused_in_one_line() {
        let long = "a".repeat(64);
        for text in ["", ":3.23", "Alpine", "../x", "a/b", ".hidden", "-x", "a b", "al\npine", "ä", &long] {
            let refusal = text.parse::<ImageRef>().unwrap_err();
            assert!(matches!(refusal, ImageRefError::Name { .. }), "{text}");
            assert!(!refusal.to_string().contains('\n'), "{text}");
        }
        for text in
            ["alpine:", "alpine:newest", "alpine:3.23.6.1", "alpine:3..1", "alpine:3.23:1", "alpine:-1"]
        {
            assert!(matches!(text.parse::<ImageRef>().unwrap_err(), ImageRefError::Version { .. }), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser_and_what_it_takes_is_a_safe_file_name(text in "\\PC{0,80}|[a-z.:0-9-]{0,20}") {
            if let Ok(image) = text.parse::<ImageRef>() {
                prop_assert_eq!(image.to_string(), text.strip_suffix(":latest").unwrap_or(&text));
                let name = image.name().as_str();
                prop_assert!(!name.contains('/') && !name.starts_with('.') && !name.is_empty());
            }
        }
    }
}
