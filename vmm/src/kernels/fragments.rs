//! The fragments of `kernel-config/`, which are part of this program: what a kernel must have and why, and what a kernel of
//! ours is built of.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{OptionExt, Snafu};

use super::configuration::assignment;
use crate::arch::Arch;

const REQUIRED: &str = include_str!("../../../kernel-config/required.config");
const BASE: &str = include_str!("../../../kernel-config/base.config");
const BASE_X86_64: &str = include_str!("../../../kernel-config/base.x86_64.config");
const BASE_ARM64: &str = include_str!("../../../kernel-config/base.arm64.config");

/// What a kernel can be good for beside what every kernel must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The shortest boot.
    Fast,
    /// A network card.
    Network,
    /// Folders of the host's.
    SharedFolders,
    /// Docker and the like in the guest.
    Containers,
    /// Virtual machines in the guest.
    Nested,
}

/// The name of no fragment.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{name:?} is no fragment: there are {}", Purpose::ALL.map(Purpose::name).join(", ")))]
pub struct UnknownPurpose {
    name: String,
}

impl Purpose {
    /// All of them, in the order in which they are laid over each other.
    pub const ALL: [Self; 5] =
        [Self::Fast, Self::Network, Self::SharedFolders, Self::Containers, Self::Nested];

    /// What a kernel is built for where nothing is said: all that vmm itself offers.
    pub const USUAL: [Self; 4] = [Self::Fast, Self::Network, Self::SharedFolders, Self::Nested];

    /// Its name, which is that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Network => "network",
            Self::SharedFolders => "shared-folders",
            Self::Containers => "containers",
            Self::Nested => "nested",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Fast => include_str!("../../../kernel-config/fast.config"),
            Self::Network => include_str!("../../../kernel-config/network.config"),
            Self::SharedFolders => include_str!("../../../kernel-config/shared-folders.config"),
            Self::Containers => include_str!("../../../kernel-config/containers.config"),
            Self::Nested => include_str!("../../../kernel-config/nested.config"),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(name: &str) -> Result<Self, UnknownPurpose> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name).context(UnknownPurposeSnafu { name })
    }
}

/// A line of a fragment, with what the comments above it say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The whole line: `CONFIG_X=y`, or `# CONFIG_X is not set`.
    pub(super) line: &'static str,
    pub(super) symbol: &'static str,
    /// What does not work without it. None: it is not checked.
    pub(super) lost: Option<&'static str>,
    /// Without it no VM gets ready.
    pub(super) stops: bool,
    only: Option<&'static str>,
}

/// Everything that is checked for an architecture: what every kernel must have, then what these purposes want.
pub(super) fn checked(arch: Arch, purposes: &[Purpose]) -> Vec<Entry> {
    let texts = [REQUIRED].into_iter().chain(ordered(purposes).map(Purpose::text));
    texts.flat_map(|text| entries(text, arch)).filter(|entry| entry.lost.is_some()).collect()
}

/// What a kernel for these purposes is built with, a line for each symbol. Of two for the same symbol the later stands.
pub(super) fn merged(arch: Arch, purposes: &[Purpose]) -> BTreeMap<&'static str, &'static str> {
    let machine = match arch {
        Arch::X86_64 => BASE_X86_64,
        Arch::Arm64 => BASE_ARM64,
    };
    let texts = [REQUIRED, BASE, machine].into_iter().chain(ordered(purposes).map(Purpose::text));
    texts.flat_map(|text| entries(text, arch)).map(|entry| (entry.symbol, entry.line)).collect()
}

fn ordered(purposes: &[Purpose]) -> impl Iterator<Item = Purpose> {
    Purpose::ALL.into_iter().filter(|purpose| purposes.contains(purpose))
}

/// The entries of a fragment that are for an architecture.
fn entries(text: &'static str, arch: Arch) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut entry = Entry::default();
    for line in text.lines() {
        let said = |key: &str| line.strip_prefix(key).map(str::trim);
        if let Some(symbol) = symbol_of(line) {
            entries.push(Entry { line, symbol, ..entry });
            entry = Entry::default();
        } else if let Some(lost) = said("# Lost:") {
            entry.lost = Some(lost);
        } else if let Some(lost) = said("# Stops:") {
            (entry.lost, entry.stops) = (Some(lost), true);
        } else if let Some(only) = said("# Only:") {
            entry.only = Some(only);
        } else if line.is_empty() {
            entry = Entry::default();
        }
    }
    let name = arch.to_string();
    entries.retain(|entry| entry.only.is_none_or(|only| only == name));
    entries
}

/// The symbol that a line sets, or says not to be set.
fn symbol_of(line: &'static str) -> Option<&'static str> {
    let unset = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set"));
    let set = || assignment(line).and_then(|_| line.split_once('=')).map(|(symbol, _)| symbol);
    unset.filter(|symbol| symbol.starts_with("CONFIG_")).or_else(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_fragment_is_understood() {
        let texts =
            [REQUIRED, BASE, BASE_X86_64, BASE_ARM64].into_iter().chain(Purpose::ALL.map(Purpose::text));
        for line in texts.flat_map(str::lines) {
            let setting = line.starts_with("CONFIG_") || line.ends_with(" is not set");
            assert_eq!(symbol_of(line).is_some(), setting, "{line}");
            if let Some((key, said)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(": ")) {
                let known = ["Why", "Lost", "Stops", "Only"].contains(&key);
                assert!(!known || !said.is_empty(), "{line}");
                assert!(key != "Only" || said.parse::<Arch>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn what_is_required_is_all_checked_and_says_why() {
        for arch in Arch::ALL {
            let all = entries(REQUIRED, arch);
            assert!(all.len() > 25);
            assert!(all.iter().all(|entry| entry.lost.is_some()), "{all:?}");
        }
        let settings = REQUIRED.lines().filter(|line| line.starts_with("CONFIG_")).count();
        assert_eq!(REQUIRED.lines().filter(|line| line.starts_with("# Why: ")).count(), settings);
    }

    #[test]
    fn each_purpose_but_speed_is_checked() {
        for purpose in Purpose::ALL {
            assert_eq!(purpose.name().parse(), Ok(purpose));
            let more = checked(Arch::X86_64, &[purpose]).len() > checked(Arch::X86_64, &[]).len();
            assert_eq!(more, purpose != Purpose::Fast, "{purpose}");
        }
        let error = "quick".parse::<Purpose>().unwrap_err().to_string();
        assert!(error.ends_with("there are fast, network, shared-folders, containers, nested"), "{error}");
    }

    #[test]
    fn a_symbol_of_one_architecture_is_not_asked_of_the_other() {
        let has = |arch, symbol| checked(arch, &[]).iter().any(|entry| entry.symbol == symbol);
        assert!(has(Arch::X86_64, "CONFIG_PVH") && !has(Arch::Arm64, "CONFIG_PVH"));
        assert!(!merged(Arch::Arm64, &Purpose::ALL).contains_key("CONFIG_KVM_AMD"));
    }
}
