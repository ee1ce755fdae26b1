//! What differs between guest architectures: pure data, chosen by a value.
//!
//! The software engine runs guests of another architecture than the host's, so nothing here is chosen by `cfg`.

pub mod x86_64;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A guest architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "arm64")]
    Arm64,
}

impl Arch {
    /// Every architecture there is.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Arm64];

    /// The architecture of this machine, if a guest can have it.
    pub fn host() -> Option<Self> {
        std::env::consts::ARCH.parse().ok()
    }

    /// Its name, as the command line and the store write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no architecture that a guest can have.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownArch(String);

impl fmt::Display for UnknownArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown architecture {:?}: use x86_64 or arm64", self.0)
    }
}

impl std::error::Error for UnknownArch {}

impl FromStr for Arch {
    type Err = UnknownArch;

    /// Takes the names that Linux, Debian, Apple and Rust use for the same thing.
    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        match name {
            "x86_64" | "amd64" | "x86-64" => Ok(Self::X86_64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            _ => Err(UnknownArch(name.to_owned())),
        }
    }
}
