//! All that is known of a VM: what it is, what it does, and where everything of it lies.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Serialize;
use vmm_disk::{Format, LayerSpec};

use super::start::is_base;
use super::{Error, Sandbox, SnapshotInfo, VmInfo, info};
use crate::home::VmFolder;

/// All that is known of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VmDetails {
    /// What `vmm ps` tells, too.
    #[serde(flatten)]
    pub info: VmInfo,
    /// The image that it was made from, by the name that only that has.
    pub image_reference: String,
    /// It refuses an engine that does not isolate by hardware.
    pub require_hardware: bool,
    /// What the guest calls itself.
    pub host_name: Option<String>,
    /// The variables that every command in it has.
    pub environment: BTreeMap<String, String>,
    /// The kernel that it boots.
    pub kernel: PathBuf,
    /// The first file system of that.
    pub initramfs: PathBuf,
    /// The parameters of the kernel.
    pub command_line: String,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskDetails>,
    /// The states of its own disk that are kept, the oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Its folder.
    pub folder: PathBuf,
    /// What its guest wrote to its console.
    pub console_log: PathBuf,
    /// What its monitor has to say of itself.
    pub monitor_log: PathBuf,
    /// Where its monitor is asked, while it runs.
    pub control_socket: PathBuf,
    /// The host's side of the guest's sockets, while it runs.
    pub vsock_socket: PathBuf,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiskDetails {
    /// What the guest calls it.
    pub device: String,
    /// What it is for: `root`, `base` (beneath a root that is only read), or the number of one of its user's.
    pub serial: String,
    /// The guest cannot write it.
    pub read_only: bool,
    /// It is a file of its user's, which stays when the VM goes.
    pub own_file: bool,
    /// What it is made of, from the base up. Only the last is written.
    pub layers: Vec<LayerDetails>,
}

/// A layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LayerDetails {
    /// Its file.
    pub path: PathBuf,
    /// The file's format.
    pub format: &'static str,
    /// The size of the disk as the guest sees it. `None`: the file cannot be read, as the next too.
    pub disk_size: Option<u64>,
    /// What the file takes of the host's disk.
    pub allocated: Option<u64>,
}

impl Sandbox {
    /// All that is known of it. What cannot be read of a disk is left out, and the rest still told.
    pub fn inspect(&self) -> Result<VmDetails, Error> {
        let folder = self.link.folder();
        let info = info::look_at(folder)?.ok_or_else(|| self.gone())?;
        let spec = folder.spec()?.ok_or_else(|| self.gone())?;
        let sockets = folder.state()?.map_or_else(|| folder.sockets(), |record| record.sockets);
        let (configuration, machine) = (&spec.configuration, &spec.machine);
        let environment = configuration.environment.iter();
        let disks = machine.disks.iter().enumerate().map(|(number, disk)| DiskDetails {
            device: format!("/dev/vd{}", letter(number)),
            serial: disk.serial.clone(),
            read_only: disk.read_only,
            own_file: number > 0 && !is_base(disk),
            layers: disk.layers.iter().map(LayerDetails::of).collect(),
        });
        Ok(VmDetails {
            info,
            image_reference: spec.image_reference.clone(),
            require_hardware: spec.require_hardware,
            host_name: configuration.host_name.clone(),
            environment: environment
                .map(|(key, value)| {
                    (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
                })
                .collect(),
            kernel: machine.boot.kernel.clone(),
            initramfs: machine.boot.initramfs.clone(),
            command_line: machine.boot.command_line.clone(),
            disks: disks.collect(),
            snapshots: self.snapshots()?,
            folder: folder.path(),
            console_log: folder.console_log(),
            monitor_log: folder.monitor_log(),
            control_socket: VmFolder::control_socket(&sockets),
            vsock_socket: VmFolder::vsock_socket(&sockets),
        })
    }
}

impl LayerDetails {
    fn of(layer: &LayerSpec) -> Self {
        let metadata = std::fs::metadata(&layer.path).ok();
        Self {
            path: layer.path.clone(),
            format: match layer.format {
                Format::Raw => "raw",
                Format::Qcow2 => "qcow2",
            },
            disk_size: vmm_disk::inspect(&layer.path, layer.format).ok().map(|info| info.virtual_size),
            allocated: metadata.map(|metadata| metadata.blocks() * 512),
        }
    }
}

/// The guest's letter for a disk, by its number.
pub(super) fn letter(number: usize) -> String {
    let last = char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    if number < 26 { last.to_string() } else { format!("{}{last}", letter(number / 26 - 1)) }
}

#[cfg(test)]
mod tests {
    use super::letter;

    #[test]
    fn disks_have_the_letters_that_linux_gives_them() {
        assert_eq!([0, 1, 25, 26, 27, 701, 702].map(letter), ["a", "b", "z", "aa", "ab", "zz", "aaa"]);
    }
}
