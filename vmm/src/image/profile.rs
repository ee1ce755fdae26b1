//! How the systems of an image want to be booted.

use serde::{Deserialize, Serialize};

/// What an image needs to boot beside its kernel, and what must not run in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootProfile {
    /// What is added to the kernel's command line.
    pub command_line: Vec<String>,
    /// The kernel of the store that boots it instead of its own, where that is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Where the root file system is.
    pub root: RootFileSystem,
    /// Services of the image that must not run in our machines, whichever init starts them.
    pub mask_services: Vec<String>,
}

/// Where a guest finds its root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFileSystem {
    /// The device, as the guest names it.
    pub device: String,
    /// The type, as `mount` names it; also the name of the kernel module for it.
    pub file_system: String,
}

impl Default for RootFileSystem {
    /// The first disk, without partitions, as ext4.
    fn default() -> Self {
        Self { device: "/dev/vda".into(), file_system: "ext4".into() }
    }
}
