//! The description of a machine, as it lies in the VM's folder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::MemorySize;
use crate::arch::Arch;

/// What a machine is: enough to make it again, and nothing of how it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// The guest's architecture.
    pub arch: Arch,
    /// The number of processors.
    pub cpus: u8,
    /// The guest's memory.
    pub memory: MemorySize,
    /// The guest may run virtual machines itself.
    #[serde(default)]
    pub nested: bool,
    /// What it boots.
    pub boot: BootSpec,
    /// Its disks; the first is the root.
    pub disks: Vec<DiskSpec>,
    /// Its sockets to the host.
    pub vsock: VsockSpec,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// The kernel, uncompressed.
    pub kernel: PathBuf,
    /// The initial file system, with our agent in it.
    pub initramfs: PathBuf,
    /// The kernel's command line, without what an engine adds of its own.
    pub command_line: String,
}

/// A disk: a chain of layers, of which only the last is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The layers from the base up. Formats are recorded, never guessed.
    pub layers: Vec<vmm_disk::LayerSpec>,
    /// Nothing is written, not even to the last layer.
    pub read_only: bool,
    /// What the guest reads as the disk's name (virtio-blk's id: at most 20 bytes).
    pub serial: String,
}

/// The machine's sockets to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockSpec {
    /// The guest's address. Each machine has a device of its own, so one number serves all.
    pub guest_cid: u32,
    /// The host's side: a Unix socket that takes `CONNECT <port>\n`. A guest's connection to port `p` goes to
    /// `<socket>_<p>`.
    pub socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_before_there_was_nesting_does_not_nest() {
        let spec = MachineSpec {
            arch: Arch::X86_64,
            cpus: 1,
            memory: MemorySize::default(),
            nested: true,
            boot: BootSpec {
                kernel: "/kernel".into(),
                initramfs: "/initramfs".into(),
                command_line: String::new(),
            },
            disks: Vec::new(),
            vsock: VsockSpec { guest_cid: 3, socket: "/vsock".into() },
        };
        let mut json = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<MachineSpec>(json.clone()).unwrap(), spec);
        json.as_object_mut().unwrap().remove("nested");
        let older: MachineSpec = serde_json::from_value(json).unwrap();
        assert_eq!(older, MachineSpec { nested: false, ..spec });
    }
}
