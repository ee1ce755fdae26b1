//! Which QEMU the machine has, and whether it will do.

use crate::command;

/// The program that runs a guest of this machine's own architecture.
pub(crate) const PROGRAM: &str =
    if cfg!(target_arch = "aarch64") { "qemu-system-aarch64" } else { "qemu-system-x86_64" };

/// The first version with all that the software engine uses.
pub(crate) const NEEDED: Version = Version(8, 2);

/// The part of a version that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    /// The version at the start of a text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
        Some(Self(major, minor))
    }

    /// The version of a Debian package: without its epoch.
    pub(crate) fn of_package(text: &str) -> Option<Self> {
        Self::parse(text.split_once(':').map_or(text, |(_, version)| version))
    }
}

/// The version of the QEMU on the path.
pub(crate) fn installed() -> Option<Version> {
    said(&command::output(PROGRAM, &["--version"])?)
}

fn said(text: &str) -> Option<Version> {
    text.split_once("version ").and_then(|(_, version)| Version::parse(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_qemu_says() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright";
        assert_eq!(said(text), Some(Version(10, 0)));
        assert_eq!(said("qemu: no"), None);
    }

    #[test]
    fn the_version_of_a_package_has_no_epoch() {
        assert_eq!(Version::of_package("1:7.2+dfsg-7+deb12u13"), Some(Version(7, 2)));
        assert_eq!(Version::of_package("1:8.2.2+ds-0ubuntu1.4"), Some(Version(8, 2)));
        assert_eq!(Version::of_package("(none)"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(Version(10, 0) > NEEDED && Version(8, 2) >= NEEDED);
        assert!(Version(8, 1) < NEEDED && Version(7, 2) < NEEDED);
    }
}
