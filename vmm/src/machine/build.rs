//! Makes a machine from its description: opens every file, makes every device.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use snafu::{ResultExt, Snafu, ensure};
use vmm_disk::{DiskImage, LiveDisk};

use super::{ConsoleKind, DiskSpec, Machine, MachineSpec, MemorySize};
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::Block;
use crate::virtio::console::Console;
use crate::virtio::entropy::Entropy;
use crate::virtio::vsock::{GuestCid, ReservedCid, VsockDevice, VsockError};

/// A disk's queues: one for each processor, up to this many. Each costs a thread.
const MAX_DISK_QUEUES: u8 = 4;

/// Why a machine cannot be made from its description.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum BuildError {
    /// A machine has at least one processor.
    #[snafu(display("a machine needs at least one processor"))]
    NoProcessor,
    /// The host has not so much memory in all.
    #[snafu(display(
        "the machine has {asked} of memory, and this host {host} in all: give it less (--memory)"
    ))]
    Memory {
        /// How much the machine is to have.
        asked: MemorySize,
        /// How much the host has, with what it swaps to.
        host: String,
    },
    /// The kernel or the initial file system cannot be opened.
    #[snafu(display("cannot open the {what} {}", path.display()))]
    Open {
        /// Which of the two.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A disk cannot be opened.
    #[snafu(display("cannot open disk {number} of the machine"))]
    Disk {
        /// Which disk, counted from 1.
        number: usize,
        /// The cause.
        source: vmm_disk::Error,
    },
    /// The guest cannot have this address.
    #[snafu(display("cannot make the machine's vsock device"))]
    Address {
        /// The cause.
        source: ReservedCid,
    },
    /// The host has no descriptor left.
    #[snafu(display("cannot make the machine's console"))]
    Console {
        /// The cause.
        source: io::Error,
    },
    /// The socket to the guest cannot be made.
    #[snafu(display("cannot make the machine's vsock device"))]
    Vsock {
        /// The cause.
        source: VsockError,
    },
}

impl MachineSpec {
    /// Opens the files and makes the devices; nothing runs yet. `console` gets what the guest writes to its console:
    /// one end of a stream socket whose other end the caller reads.
    ///
    /// With the machine comes a hold on its root disk, whose top layer can be switched while the machine has it. It leads
    /// nowhere if the disk is none of that kind.
    pub fn build(&self, console: OwnedFd) -> Result<(Machine, Weak<LiveDisk>), BuildError> {
        ensure!(self.cpus > 0, NoProcessorSnafu);
        let host = vmm_sys::memory::of_host();
        let fits = self.memory.bytes() <= host;
        ensure!(fits, MemorySnafu { asked: self.memory, host: format!("{}M", host >> 20) });
        // In the guest's order: the root comes first, so that it is the first disk of its kind.
        let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
        let mut root = Weak::new();
        for (number, disk) in (1usize..).zip(&self.disks) {
            let live = if number == 1 { open_live(disk).context(DiskSnafu { number })? } else { None };
            let image: Arc<dyn DiskImage> = match live {
                Some(live) => {
                    root = Arc::downgrade(&live);
                    live
                }
                None => vmm_disk::open_chain(&disk.layers, disk.read_only).context(DiskSnafu { number })?,
            };
            let queues = self.cpus.clamp(1, MAX_DISK_QUEUES).into();
            devices.push(Box::new(Block::new(image, &disk.serial, queues)));
        }
        let guest = GuestCid::try_from(self.vsock.guest_cid).context(AddressSnafu)?;
        devices.push(Box::new(VsockDevice::new(guest, &self.vsock.socket).context(VsockSnafu)?));
        devices.push(Box::new(Entropy::new()));
        if self.console == ConsoleKind::Virtio {
            devices.push(Box::new(Console::new(console.try_clone().context(ConsoleSnafu)?)));
        }
        let balloon = self.balloon.then(Balloon::new);
        let balloon_control = balloon.as_ref().map(Balloon::control);
        devices.extend(balloon.map(|balloon| Box::new(balloon) as Box<dyn VirtioDevice>));
        let machine = Machine {
            arch: self.arch,
            cpus: self.cpus,
            memory: self.memory,
            nested: self.nested,
            huge_pages: self.huge_pages,
            kernel: open("kernel", &self.boot.kernel)?,
            initramfs: open("initramfs", &self.boot.initramfs)?,
            command_line: self.boot.command_line.clone(),
            devices,
            balloon: balloon_control,
            console,
            types_on_serial: self.console == ConsoleKind::Serial,
        };
        Ok((machine, root))
    }
}

/// Opens a disk whose top layer can be switched. `None`: it is none of that kind.
fn open_live(disk: &DiskSpec) -> Result<Option<Arc<LiveDisk>>, vmm_disk::Error> {
    if disk.read_only { Ok(None) } else { Ok(LiveDisk::open(&disk.layers)?.map(Arc::new)) }
}

fn open(what: &'static str, path: &Path) -> Result<File, BuildError> {
    File::open(path).context(OpenSnafu { what, path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::machine::{BootSpec, MemorySize, VsockSpec};
    use crate::virtio::DeviceType;
    use std::os::unix::net::UnixStream;

    fn spec(folder: &Path) -> MachineSpec {
        for name in ["vmlinux", "initramfs", "root.raw"] {
            std::fs::write(folder.join(name), [0u8; 1 << 16]).unwrap();
        }
        let layer = vmm_disk::LayerSpec { path: folder.join("root.raw"), format: vmm_disk::Format::Raw };
        MachineSpec {
            arch: Arch::X86_64,
            cpus: 2,
            memory: MemorySize::default(),
            nested: false,
            console: ConsoleKind::default(),
            balloon: false,
            huge_pages: false,
            boot: BootSpec {
                kernel: folder.join("vmlinux"),
                initramfs: folder.join("initramfs"),
                command_line: "quiet".to_owned(),
            },
            disks: vec![DiskSpec { layers: vec![layer], read_only: false, serial: "root".to_owned() }],
            vsock: VsockSpec { guest_cid: 3, socket: folder.join("vsock") },
        }
    }

    fn build(spec: &MachineSpec) -> Result<Machine, BuildError> {
        build_with_root(spec).map(|(machine, _)| machine)
    }

    fn build_with_root(spec: &MachineSpec) -> Result<(Machine, Weak<LiveDisk>), BuildError> {
        spec.build(UnixStream::pair().unwrap().0.into())
    }

    #[test]
    fn a_machine_has_its_disks_first_with_a_queue_for_each_processor() {
        let folder = tempfile::tempdir().unwrap();
        let machine = build(&spec(folder.path())).unwrap();
        let kinds: Vec<_> = machine.devices.iter().map(|device| device.device_type()).collect();
        assert_eq!(kinds, [DeviceType::Block, DeviceType::Vsock, DeviceType::Entropy]);
        assert_eq!(machine.devices[0].queue_sizes().len(), 2);
        assert!(folder.path().join("vsock").exists());
    }

    #[test]
    fn a_machine_has_a_virtio_console_and_a_balloon_where_they_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let plain = build(&spec(folder.path())).unwrap();
        assert!(plain.balloon.is_none());
        drop(plain);
        let spec = MachineSpec { console: ConsoleKind::Virtio, balloon: true, ..spec(folder.path()) };
        let machine = build(&spec).unwrap();
        let kinds = machine.devices.iter().skip(2).map(|device| device.device_type());
        let expected = [DeviceType::Entropy, DeviceType::Console, DeviceType::Balloon];
        assert_eq!(kinds.collect::<Vec<_>>(), expected);
        machine.balloon.unwrap().set_target(3 << 12).unwrap();
        let mut wanted = [0; 4];
        machine.devices.last().unwrap().read_config(0, &mut wanted);
        assert_eq!(u32::from_le_bytes(wanted), 3);
    }

    #[test]
    fn a_root_of_layers_comes_with_a_hold_on_it_for_as_long_as_the_machine_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(folder.path());
        let (_machine, root) = build_with_root(&spec).unwrap();
        assert!(root.upgrade().is_none(), "its top is raw");
        let top = folder.path().join("top.qcow2");
        vmm_disk::create_overlay(&top, 1 << 16).unwrap();
        let layer = vmm_disk::LayerSpec { path: top.clone(), format: vmm_disk::Format::Qcow2 };
        // Another device has the other one.
        spec.vsock.socket = folder.path().join("other");
        spec.disks = vec![DiskSpec { layers: vec![layer], ..spec.disks[0].clone() }];
        let (machine, root) = build_with_root(&spec).unwrap();
        assert_eq!(root.upgrade().unwrap().top(), top);
        drop(machine);
        assert!(root.upgrade().is_none());
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut broken = spec(folder.path());
        broken.boot.kernel = folder.path().join("gone");
        let error = build(&broken).err().unwrap().to_string();
        assert!(error.starts_with("cannot open the kernel /") && error.ends_with("/gone"), "{error}");
        let mut broken = spec(folder.path());
        broken.disks.push(DiskSpec { layers: Vec::new(), read_only: true, serial: String::new() });
        assert_eq!(build(&broken).err().unwrap().to_string(), "cannot open disk 2 of the machine");
        let mut broken = spec(folder.path());
        broken.vsock.guest_cid = 2;
        assert!(matches!(build(&broken), Err(BuildError::Address { .. })));
        let mut broken = spec(folder.path());
        broken.memory = MemorySize::MAXIMUM;
        assert!(matches!(build(&broken), Err(BuildError::Memory { .. })));
        let mut broken = spec(folder.path());
        broken.cpus = 0;
        assert!(matches!(build(&broken), Err(BuildError::NoProcessor)));
    }

    #[test]
    fn two_machines_cannot_write_the_same_disk() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(folder.path());
        let _first = build(&spec).unwrap();
        assert!(matches!(build(&spec), Err(BuildError::Disk { number: 1, .. })));
    }
}
