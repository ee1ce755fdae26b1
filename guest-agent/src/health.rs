//! How the guest is: load, memory, disks.

use std::fs::{self, File};
use std::io::{self, Read, Seek};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{StatVfsMountFlags, stat, statvfs};
use vmm_protocol::{DiskUse, Health, MemoryUse};

use crate::clock;

/// More disks are not listed.
const MAX_DISKS: usize = 64;

/// Looks at the guest, often: the list of mounts, the longest to write and to read, is read again only when it has changed.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    mounts: Option<File>,
    disks: Vec<Disk>,
}

/// A block device that is mounted.
#[derive(Debug)]
struct Disk {
    device: String,
    mount_point: String,
    file_system: String,
    /// The number that files there have for their device.
    number: u64,
}

impl Observer {
    /// Looks at the guest. What the kernel does not tell is nothing.
    pub(crate) fn measure(&mut self, processes: usize) -> Health {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        // A folder above a mount point that was given another name is no change to the list.
        if mounts_changed(self.mounts.as_ref()) || !self.disks.iter().all(Disk::is_there) {
            let mounts = read_mounts(&mut self.mounts).unwrap_or_else(|_| {
                self.mounts = None;
                String::new()
            });
            self.disks = disks(&mounts);
        }
        Health {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: clock::monotonic().as_millis().try_into().unwrap_or(u64::MAX),
            load_hundredths: load(&loadavg),
            memory: memory(&meminfo),
            disks: self.disks.iter().filter_map(Disk::usage).collect(),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
        }
    }
}

/// Whether the list of mounts was never read, or mounts have come or gone since this was last asked (`mounts_poll`,
/// fs/proc_namespace.c).
fn mounts_changed(mounts: Option<&File>) -> bool {
    let Some(file) = mounts else { return true };
    let mut wanted = [PollFd::new(file, PollFlags::PRI)];
    match poll(&mut wanted, Some(&Timespec::default())) {
        Ok(_) => !wanted[0].revents().is_empty(),
        Err(_) => true,
    }
}

/// The list of mounts as it is now. Its file stays open, since that is what says when it changes.
fn read_mounts(mounts: &mut Option<File>) -> io::Result<String> {
    let file = match mounts {
        Some(file) => file,
        None => mounts.insert(File::open("/proc/self/mounts")?),
    };
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
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

/// Every mounted block device once, however often parts of it are mounted again.
fn disks(mounts: &str) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').map(unescape);
        let (Some(device), Some(mount_point), Some(file_system)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !device.starts_with("/dev/") || disks.iter().any(|disk| disk.device == device) {
            continue;
        }
        let Some(number) = device_number(&mount_point) else { continue };
        disks.push(Disk { device, mount_point, file_system, number });
        if disks.len() == MAX_DISKS {
            break;
        }
    }
    disks
}

fn device_number(path: &str) -> Option<u64> {
    Some(stat(path).ok()?.st_dev)
}

impl Disk {
    /// Whether it is still mounted where it was.
    fn is_there(&self) -> bool {
        device_number(&self.mount_point) == Some(self.number)
    }

    /// How full it is; nothing where that cannot be told.
    fn usage(&self) -> Option<DiskUse> {
        let usage = statvfs(&self.mount_point).ok()?;
        Some(DiskUse {
            device: self.device.clone(),
            mount_point: self.mount_point.clone(),
            file_system: self.file_system.clone(),
            total: usage.f_blocks * usage.f_frsize,
            available: usage.f_bavail * usage.f_frsize,
            read_only: usage.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }
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
        // The list of mounts is not read again.
        let again = observer.measure(4);
        assert_eq!(again.memory.total, health.memory.total);
        assert_eq!(again.disks.len(), health.disks.len());
        assert_eq!(again.processes, 4);
    }
}
