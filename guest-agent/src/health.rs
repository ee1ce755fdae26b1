//! How the guest is: load, memory, disks.

use std::fs;

use rustix::fs::{StatVfsMountFlags, statvfs};
use vmm_protocol::{DiskUse, Health, MemoryUse};

use crate::clock;

/// More disks are not listed.
const MAX_DISKS: usize = 64;

/// Looks at the guest.
pub(crate) fn measure(processes: usize) -> Health {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    Health {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: clock::monotonic().as_millis().try_into().unwrap_or(u64::MAX),
        load_hundredths: load(&loadavg),
        memory: memory(&meminfo),
        disks: disks(&mounts),
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
    }
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
fn disks(mounts: &str) -> Vec<DiskUse> {
    let mut disks: Vec<DiskUse> = Vec::new();
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
        let Ok(usage) = statvfs(&mount_point) else { continue };
        let read_only = usage.f_flag.contains(StatVfsMountFlags::RDONLY);
        let (total, available) = (usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize);
        disks.push(DiskUse { device, mount_point, file_system, total, available, read_only });
        if disks.len() == MAX_DISKS {
            break;
        }
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
        let health = measure(3);
        assert!(health.memory.total > health.memory.free);
        assert!(health.uptime_ms > 0);
        assert_eq!(health.processes, 3);
    }
}
