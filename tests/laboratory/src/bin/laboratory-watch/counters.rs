//! KVM's counters of a machine (Documentation/virt/kvm/api.rst, 4.133, shows the same): files that go with the machine.

use std::fs::{self, File};
use std::io::{self, Read};

/// Where they are.
const FOLDER: &str = "/sys/kernel/debug/kvm";

/// Those that tell what left the guest and why. The first two come to the monitor, unless KVM itself has the device.
const WANTED: [&str; 6] =
    ["io_exits", "mmio_exits", "halt_exits", "irq_window_exits", "request_irq_exits", "exits"];

/// The counters of a machine. While they are open the machine stays, though its process may be gone.
pub(crate) struct Counters(Vec<(&'static str, File)>);

impl Counters {
    /// Those of the one machine of a process that lives.
    pub(crate) fn open(process: u32) -> io::Result<Self> {
        let prefix = format!("{process}-");
        for entry in fs::read_dir(FOLDER)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let open = |name: &&'static str| Some((*name, File::open(entry.path().join(name)).ok()?));
                return Ok(Self(WANTED.iter().filter_map(open).collect()));
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("process {process} has no machine in {FOLDER}")))
    }

    /// What they have counted until now. To be read once.
    pub(crate) fn read(self) -> io::Result<Vec<(&'static str, u64)>> {
        let mut counts = Vec::new();
        for (name, mut file) in self.0 {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            counts.push((name, text.trim().parse().map_err(io::Error::other)?));
        }
        Ok(counts)
    }
}
