//! An image of the store, as its `metadata.json` describes it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::import::is_reserved;
use super::layers::LayerId;
use super::profile::BootProfile;
use super::record::FileRecord;
use super::reference::{ImageName, ImageRef};
use super::version::ImageVersion;
use crate::arch::Arch;

/// The record in an image's folder.
pub(super) const METADATA: &str = "metadata.json";

/// The kernel in an image's folder.
pub(super) const KERNEL: &str = "vmlinux";

/// The folder of kernel modules in an image's folder.
pub(super) const MODULES: &str = "modules";

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) metadata: Metadata,
}

/// What `metadata.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: ImageName,
    pub(super) version: ImageVersion,
    pub(super) arch: Arch,
    /// What `uname -r` says in the guest.
    pub(super) kernel_release: String,
    /// The topmost layer of its disk; the layers tell what is below.
    pub(super) layer: LayerId,
    /// Every file in the folder that a start needs.
    pub(super) files: Vec<FileRecord>,
    pub(super) profile: BootProfile,
    /// What it was made from: a line and a digest for each artifact.
    pub(super) origin: Vec<FileRecord>,
    /// When it was pulled, in milliseconds since 1970.
    #[serde(default)]
    pub(super) pulled_ms: Option<u64>,
    /// The digest of the catalog's entry that it was made by.
    #[serde(default)]
    pub(super) catalog: Option<Digest>,
    /// The script that is yet to run in a machine of its own: until then it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) customise: Option<String>,
    /// The digest of the script that has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) customised: Option<Digest>,
    /// The version that `/etc/vmm-image` on its disk says, or will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<ImageVersion>,
    /// The VM whose disk it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vm: Option<String>,
}

impl Image {
    /// Its name.
    pub fn name(&self) -> &ImageName {
        &self.metadata.name
    }

    /// Its version.
    pub fn version(&self) -> ImageVersion {
        self.metadata.version
    }

    /// The machines that it is for.
    pub fn arch(&self) -> Arch {
        self.metadata.arch
    }

    /// The reference that only this image fits. A machine's description keeps it, so that the machine finds its image
    /// again.
    pub fn reference(&self) -> ImageRef {
        ImageRef::exact(self.metadata.name.clone(), self.metadata.version)
    }

    /// How it wants to be booted.
    pub fn profile(&self) -> &BootProfile {
        &self.metadata.profile
    }

    /// What `uname -r` says in a machine that boots its kernel.
    pub fn kernel_release(&self) -> &str {
        &self.metadata.kernel_release
    }

    /// The topmost layer of its disk: machines put a layer of their own on it.
    pub fn layer(&self) -> &LayerId {
        &self.metadata.layer
    }

    /// Whether it is yet to be customised ([`super::ImageStore::customise`]); no machine boots from it before.
    pub fn is_pending(&self) -> bool {
        self.metadata.customise.is_some()
    }

    /// Whether its disk is a file of its user's, which lies where it was.
    pub fn is_of_file(&self) -> bool {
        is_reserved(self.metadata.name.as_str())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its kernel, in the form that an engine loads.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(KERNEL)
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.metadata.name, self.metadata.version)
    }
}
