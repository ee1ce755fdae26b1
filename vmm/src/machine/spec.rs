//! The description of a machine, as it lies in the VM's folder.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{Snafu, ensure};

use super::MemorySize;
use crate::arch::Arch;

/// What a guest keeps of its memory, whatever it is asked to do without.
const LEFT_BY_BALLOON: u64 = 64 << 20;

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
    /// What the guest's console is.
    #[serde(default)]
    pub console: ConsoleKind,
    /// It has a balloon: the host can ask for memory back.
    #[serde(default)]
    pub balloon: bool,
    /// Its memory is in huge pages of the host's.
    #[serde(default)]
    pub huge_pages: bool,
    /// What it boots.
    pub boot: BootSpec,
    /// Its disks; the first is the root.
    pub disks: Vec<DiskSpec>,
    /// Its sockets to the host.
    pub vsock: VsockSpec,
}

/// What a guest's console is. Every machine has the serial port, for a kernel's first words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleKind {
    /// The serial port: every engine has it, and each byte costs the guest some exits.
    #[default]
    Serial,
    /// A virtio console, which takes many bytes at a time.
    Virtio,
}

impl ConsoleKind {
    /// Its name, as the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Virtio => "virtio",
        }
    }
}

impl fmt::Display for ConsoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of no console.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("{name:?} is no console: use serial or virtio"))]
pub struct UnknownConsole {
    /// What was written.
    name: String,
}

impl FromStr for ConsoleKind {
    type Err = UnknownConsole;

    fn from_str(name: &str) -> Result<Self, UnknownConsole> {
        let kind = [Self::Serial, Self::Virtio].into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| UnknownConsole { name: name.to_owned() })
    }
}

/// A guest cannot do without so much.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("a guest with {memory} of memory can do without {}M at most: it keeps 64M", most >> 20))]
pub struct BalloonTooLarge {
    memory: MemorySize,
    most: u64,
}

impl MachineSpec {
    /// Whether the guest can be asked to do without so many bytes.
    pub fn check_balloon(&self, bytes: u64) -> Result<(), BalloonTooLarge> {
        let most = self.memory.bytes().saturating_sub(LEFT_BY_BALLOON);
        ensure!(bytes <= most, BalloonTooLargeSnafu { memory: self.memory, most });
        Ok(())
    }
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

    fn spec() -> MachineSpec {
        MachineSpec {
            arch: Arch::X86_64,
            cpus: 1,
            memory: MemorySize::default(),
            nested: true,
            console: ConsoleKind::Virtio,
            balloon: true,
            huge_pages: true,
            boot: BootSpec {
                kernel: "/kernel".into(),
                initramfs: "/initramfs".into(),
                command_line: String::new(),
            },
            disks: Vec::new(),
            vsock: VsockSpec { guest_cid: 3, socket: "/vsock".into() },
        }
    }

    #[test]
    fn a_machine_of_before_there_was_something_has_it_not() {
        let spec = spec();
        let mut json = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<MachineSpec>(json.clone()).unwrap(), spec);
        for added in ["nested", "console", "balloon", "huge_pages"] {
            assert!(json.as_object_mut().unwrap().remove(added).is_some(), "{added}");
        }
        let older: MachineSpec = serde_json::from_value(json).unwrap();
        let expected = MachineSpec {
            nested: false,
            console: ConsoleKind::Serial,
            balloon: false,
            huge_pages: false,
            ..spec
        };
        assert_eq!(older, expected);
    }

    #[test]
    fn a_guest_keeps_some_of_its_memory() {
        let spec = spec();
        assert_eq!(spec.check_balloon(0), Ok(()));
        assert_eq!(spec.check_balloon(448 << 20), Ok(()));
        assert_eq!(
            spec.check_balloon((448 << 20) + 1).unwrap_err().to_string(),
            "a guest with 512M of memory can do without 448M at most: it keeps 64M"
        );
        assert!(spec.check_balloon(u64::MAX).is_err());
    }

    #[test]
    fn a_console_is_read_as_it_is_written() {
        for kind in [ConsoleKind::Serial, ConsoleKind::Virtio] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        let error = "hvc".parse::<ConsoleKind>().unwrap_err();
        assert_eq!(error.to_string(), "\"hvc\" is no console: use serial or virtio");
    }
}
