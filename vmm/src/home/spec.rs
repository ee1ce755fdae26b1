//! `spec.json`: what a VM is. Written when it is created; a later start only brings the files that it boots from up
//! to date.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snafu::Snafu;
use vmm_protocol::Configuration;

use super::{HealthCheck, RestartPolicy, Timestamp, VmId, VmName};
use crate::engine::EngineChoice;
use crate::machine::MachineSpec;

/// How long a guest may take to shut down, unless it is told otherwise.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// The name of no init.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{name:?} is no init: use agent or image"))]
pub struct UnknownInit {
    /// What was written.
    name: String,
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

impl Init {
    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Init> for vmm_protocol::Init {
    fn from(init: Init) -> Self {
        match init {
            Init::Agent => Self::Agent,
            Init::Image => Self::Image,
        }
    }
}

impl From<vmm_protocol::Init> for Init {
    fn from(init: vmm_protocol::Init) -> Self {
        match init {
            vmm_protocol::Init::Agent => Self::Agent,
            vmm_protocol::Init::Image => Self::Image,
        }
    }
}

impl FromStr for Init {
    type Err = UnknownInit;

    fn from_str(name: &str) -> Result<Self, UnknownInit> {
        match name {
            "agent" => Ok(Self::Agent),
            "image" => Ok(Self::Image),
            _ => UnknownInitSnafu { name }.fail(),
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
    /// It is gone when it ends, though it has a name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// How long its guest may take to shut down, where whoever stops it does not say; in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout_ms: Option<u64>,
    /// The image as the user named it.
    pub image: String,
    /// The image that it was created from, by the name that only that has.
    pub image_reference: String,
    /// The version of the image that it was created from.
    pub image_version: String,
    /// When it was created.
    pub created: Timestamp,
    /// Which engine is to run it.
    pub engine: EngineChoice,
    /// Refuse an engine that does not isolate by hardware.
    pub require_hardware: bool,
    /// What its agent is told after a boot. The time and the entropy are added then.
    pub configuration: Configuration,
    /// Its kernel is one of its user's, kept in its folder.
    #[serde(default)]
    pub own_kernel: bool,
    /// The name of its kernel in the store, if it is one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_kernel: Option<String>,
    /// The machine.
    pub machine: MachineSpec,
    /// How it is seen that it does what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// What follows from an end that nobody asked for.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// States of its disk that were kept, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
}

/// A state of a VM's disk that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What its user calls it.
    pub name: VmName,
    /// When it was taken.
    pub created: Timestamp,
    /// The layers that the disk had, from the base up. None of them is written any more.
    pub layers: Vec<vmm_disk::LayerSpec>,
}

impl VmSpec {
    /// The version of the format that is written here.
    pub const VERSION: u32 = 1;

    /// Whether everything of it goes when it ends.
    pub fn ephemeral(&self) -> bool {
        self.name.is_none() || self.remove
    }

    /// Gives it another name. One that goes when it ends still does. Its guest calls itself by the new name after its next
    /// start, if it did by the old one.
    pub fn rename(&mut self, name: &VmName) {
        self.remove |= self.name.is_none();
        let host_name = &mut self.configuration.host_name;
        if host_name.is_some() && host_name.as_deref() == self.name.as_ref().map(VmName::as_str) {
            *host_name = Some(name.to_string());
        }
        self.name = Some(name.clone());
    }

    /// How long its guest may take to shut down, where whoever stops it does not say.
    pub fn stop_grace(&self) -> Duration {
        self.stop_timeout_ms.map_or(DEFAULT_STOP_GRACE, Duration::from_millis)
    }

    /// What to call it: its name, or else its id.
    pub fn display_name(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), VmName::as_str)
    }
}
