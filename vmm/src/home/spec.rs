//! `spec.json`: what a VM is, written when it is created and never changed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Timestamp, VmId, VmName};
use crate::machine::MachineSpec;

/// Which engine runs a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The best that works on this host.
    #[default]
    Auto,
    /// Linux's KVM.
    Kvm,
    /// Apple's Hypervisor.framework.
    Hvf,
    /// QEMU's TCG.
    Software,
}

impl EngineChoice {
    /// Every choice there is.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Kvm, Self::Hvf, Self::Software];

    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Software => "software",
        }
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no engine, or of no init.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownChoice {
    given: String,
    known: &'static str,
}

impl fmt::Display for UnknownChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not one of {}", self.given, self.known)
    }
}

impl std::error::Error for UnknownChoice {}

impl FromStr for EngineChoice {
    type Err = UnknownChoice;

    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        let known = Self::ALL.into_iter().find(|choice| choice.name() == name);
        known.ok_or_else(|| UnknownChoice { given: name.to_owned(), known: "auto, kvm, hvf, software" })
    }
}

/// Who is PID 1 in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Our agent: the fastest start, nothing of the image runs by itself.
    #[default]
    Agent,
    /// The image's own init (OpenRC, systemd), with our agent as a service beside it.
    Image,
}

impl FromStr for Init {
    type Err = UnknownChoice;

    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        match name {
            "agent" => Ok(Self::Agent),
            "image" => Ok(Self::Image),
            _ => Err(UnknownChoice { given: name.to_owned(), known: "agent, image" }),
        }
    }
}

/// What a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The version of this file's format.
    pub version: u32,
    /// Its id.
    pub id: VmId,
    /// The name that points to it. A VM without one is gone when it ends.
    pub name: Option<VmName>,
    /// The image as the user named it.
    pub image: String,
    /// The version of the image that it was created from.
    pub image_version: String,
    /// When it was created.
    pub created: Timestamp,
    /// Which engine is to run it.
    pub engine: EngineChoice,
    /// Refuse an engine that does not isolate by hardware.
    pub require_hardware: bool,
    /// Who is PID 1 in the guest.
    pub init: Init,
    /// The environment of every process in the guest.
    pub env: Vec<(String, String)>,
    /// The machine.
    pub machine: MachineSpec,
}

impl VmSpec {
    /// The version of the format that is written here.
    pub const VERSION: u32 = 1;

    /// Whether everything of it goes when it ends.
    pub fn ephemeral(&self) -> bool {
        self.name.is_none()
    }

    /// What to call it: its name, or else its id.
    pub fn display_name(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), VmName::as_str)
    }
}
