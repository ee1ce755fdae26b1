//! How the guest is: load, memory, disks.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{StatVfsMountFlags, statvfs};
use vmm_protocol::{DiskUse, Health, MemoryUse};

use crate::clock;

/// More disks are not listed.
const MAX_DISKS: usize = 64;

/// Looks at the guest, often: what the kernel tells of itself stays open, and the list of mounts, the longest to write
/// and to read, is read again only when it has changed.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    meminfo: Option<File>,
    loadavg: Option<File>,
    mounts: Option<File>,
    mounted: Vec<Mounted>,
}

/// A mount of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    device: String,
    mount_point: String,
    file_system: String,
}

impl Observer {
    /// Looks at the guest. What the kernel does not tell is nothing.
    pub(crate) fn measure(&mut self, processes: usize) -> Health {
        if mounts_changed(&mut self.mounts) {
            self.mounted = mounted(&read(&mut self.mounts, MOUNTS));
        }
        Health {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: clock::monotonic().as_millis().try_into().unwrap_or(u64::MAX),
            load_hundredths: load(&read(&mut self.loadavg, "/proc/loadavg")),
            memory: memory(&read(&mut self.meminfo, "/proc/meminfo")),
            disks: disks(&self.mounted),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
        }
    }
}

const MOUNTS: &str = "/proc/self/mounts";

/// Whether the list of mounts was never read, or has changed since this was last asked (`mounts_poll`,
/// fs/proc_namespace.c).
fn mounts_changed(mounts: &mut Option<File>) -> bool {
    let Some(file) = mounts else { return true };
    let mut wanted = [PollFd::new(file, PollFlags::PRI)];
    match poll(&mut wanted, Some(&Timespec::default())) {
        Ok(_) => !wanted[0].revents().is_empty(),
        Err(_) => true,
    }
}

/// All of a file of the kernel's from its beginning, as it is now. It is opened where it is not open yet.
fn read(file: &mut Option<File>, path: &str) -> String {
    let read = |file: &mut Option<File>| -> io::Result<String> {
        let file = match file {
            Some(file) => {
                file.rewind()?;
                file
            }
            None => file.insert(File::open(path)?),
        };
        let mut text = String::with_capacity(4096);
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    read(file).unwrap_or_else(|_| {
        *file = None;
        String::new()
    })
}

/// `0.12 0.34 1.05 1/70 123`, always with two decimals.
fn load(loadavg: &str) -> [u32; 3] {
    let mut fields = loadavg.split(' ').map(|field| {
        let (whole, hundredths) = field.split_once('.')?;
        Some(whole.parse::<u32>().ok()?.saturating_mul(100).saturating_add(hundredths.parse().ok()?))
    });
    std::array::from_fn(|_| fields.next().flatten().unwrap_or(0))
}

/// Lines of `MemTotal:  123456 kB`.
fn memory(meminfo: &str) -> MemoryUse {
    let mut memory = MemoryUse::default();
    for line in meminfo.lines() {
        let mut words = line.split_ascii_whitespace();
        let field = match words.next() {
            Some("MemTotal:") => &mut memory.total,
            Some("MemFree:") => &mut memory.free,
            Some("MemAvailable:") => &mut memory.available,
            Some("SwapTotal:") => &mut memory.swap_total,
            Some("SwapFree:") => &mut memory.swap_free,
            _ => continue,
        };
        *field = words.next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024;
    }
    memory
}

/// The mounts of block devices in the kernel's list.
fn mounted(mounts: &str) -> Vec<Mounted> {
    let mut mounted = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').map(unescape);
        let (Some(device), Some(mount_point), Some(file_system)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if device.starts_with("/dev/") {
            mounted.push(Mounted { device, mount_point, file_system });
        }
    }
    mounted
}

/// Every mounted block device once, however often parts of it are mounted again.
fn disks(mounted: &[Mounted]) -> Vec<DiskUse> {
    let mut disks: Vec<DiskUse> = Vec::new();
    for mount in mounted {
        if disks.len() == MAX_DISKS {
            break;
        }
        if disks.iter().any(|disk| disk.device == mount.device) {
            continue;
        }
        let Ok(usage) = statvfs(&mount.mount_point) else { continue };
        let Mounted { device, mount_point, file_system } = mount.clone();
        let read_only = usage.f_flag.contains(StatVfsMountFlags::RDONLY);
        let (total, available) = (usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize);
        disks.push(DiskUse { device, mount_point, file_system, total, available, read_only });
    }
    disks
}

/// The kernel writes space, tab, newline and backslash of a name as `\040` and so on.
pub(crate) fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, escaped)) = rest.split_once('\\') {
        text.push_str(before);
        match escaped.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &escaped[3..];
            }
            None => {
                text.push('\\');
                rest = escaped;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read_as_the_kernel_writes_them() {
        assert_eq!(load("0.12 3.04 10.50 1/70 123\n"), [12, 304, 1050]);
        assert_eq!(load(""), [0; 3]);
        let memory = memory("MemTotal:         123 kB\nMemFree: 7 kB\nMemAvailable:  9 kB\nOdd: x\n");
        assert_eq!((memory.total, memory.free, memory.available), (123 * 1024, 7 * 1024, 9 * 1024));
    }

    #[test]
    fn names_of_mounts_are_unescaped_and_a_broken_escape_stays() {
        assert_eq!(unescape(r"/mnt/a\040b\134c"), "/mnt/a b\\c");
        assert_eq!(unescape(r"a\9"), r"a\9");
    }

    #[test]
    fn this_machine_has_memory_and_time() {
        let mut observer = Observer::default();
        let health = observer.measure(3);
        assert!(health.memory.total > health.memory.free);
        assert!(health.uptime_ms > 0);
        assert_eq!(health.processes, 3);
        // Files that stay open are read from their beginning.
        let again = observer.measure(4);
        assert_eq!(again.memory.total, health.memory.total);
        assert_eq!(again.disks.len(), health.disks.len());
        assert_eq!(again.processes, 4);
    }
}
