//! What a VM costs its host, beside what its guest says of itself.

use std::fs;
use std::path::Path;
use std::thread;

use serde::Serialize;

use super::{Error, Sandbox, VmInfo};
use crate::agent::Health;
use crate::home::{Home, Timestamp, VmState};

/// What a VM that runs costs, and how its guest is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct VmStats {
    /// The VM.
    #[serde(flatten)]
    pub vm: VmInfo,
    /// When this was measured.
    pub time: Timestamp,
    /// What all of its processes together cost.
    pub host: HostCosts,
    /// What its guest says. `None` where it does not answer, or stands still.
    pub guest: Option<Health>,
}

/// What processes cost the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostCosts {
    /// Processor time since they began, in microseconds.
    pub processor_us: u64,
    /// Of that, the monitor's process alone. On hardware virtualization the guest's own is among it.
    pub monitor_processor_us: u64,
    /// Memory in bytes, what is shared with others by share.
    pub memory: u64,
    /// Of that, what is not the guest's memory.
    pub monitor_memory: u64,
    /// Bytes that were read from the host's disks.
    pub disk_read: u64,
    /// Bytes that were written to them.
    pub disk_written: u64,
    /// Their threads.
    pub threads: u32,
}

/// What each of the VMs of a home that run costs. All are asked at once.
pub(super) fn of_all(home: &Home) -> Result<Vec<VmStats>, Error> {
    let live = Sandbox::list(home)?.into_iter().filter(|vm| vm.monitor_pid.is_some());
    let sandboxes: Vec<_> = live.map(|vm| (Sandbox::of(home.folder(&vm.id), None), vm)).collect();
    Ok(thread::scope(|scope| {
        let ask = |(sandbox, vm)| scope.spawn(move || of(sandbox, vm));
        let asked: Vec<_> = sandboxes.iter().map(|(sandbox, vm)| ask((sandbox, vm.clone()))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok()).collect()
    }))
}

/// What a VM costs.
pub(super) fn of(sandbox: &Sandbox, vm: VmInfo) -> VmStats {
    let guest = if vm.state == VmState::Running { sandbox.health().ok() } else { None };
    let monitor = vm.monitor_pid.into_iter().map(|pid| (pid, true));
    let others = vm.processes.iter().map(|&pid| (pid, false));
    // With processors of our own the guest's memory is ours alone.
    let memory = GuestMemory { bytes: vm.memory.bytes(), shared: !vm.processes.is_empty() };
    let mut host = HostCosts::default();
    for (pid, is_monitor) in monitor.chain(others) {
        // One that has just ended costs nothing more.
        let Some(costs) = of_process(&Path::new("/proc").join(pid.to_string()), memory) else { continue };
        host.processor_us += costs.processor_us;
        host.monitor_processor_us += if is_monitor { costs.processor_us } else { 0 };
        host.memory += costs.memory;
        host.monitor_memory += costs.monitor_memory;
        host.disk_read += costs.disk_read;
        host.disk_written += costs.disk_written;
        host.threads += costs.threads;
    }
    VmStats { vm, time: Timestamp::now(), host, guest }
}

/// What one process costs, by its folder in `/proc` (proc(5)).
fn of_process(folder: &Path, guest: GuestMemory) -> Option<HostCosts> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let stat = read("stat")?;
    let (processor_us, threads) = parse_stat(&stat)?;
    let (memory, monitor_memory) = parse_smaps(&read("smaps").unwrap_or_default(), guest);
    let io = read("io").unwrap_or_default();
    let of_io = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Some(HostCosts {
        processor_us,
        monitor_processor_us: 0,
        memory,
        monitor_memory,
        disk_read: of_io("read_bytes:"),
        disk_written: of_io("write_bytes:"),
        threads,
    })
}

/// The processor time in microseconds, and the threads. The program's name, which stands in parentheses, may contain any
/// character.
fn parse_stat(stat: &str) -> Option<(u64, u32)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first field behind the name is the third of all.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Some((ticks * tick_us, u32::try_from(number(20)?).ok()?))
}

/// Where the guest's memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GuestMemory {
    /// How much there is.
    bytes: u64,
    /// In a file without a name, which QEMU shares with us; otherwise in memory of our own.
    shared: bool,
}

impl GuestMemory {
    /// No part of a guest's memory is smaller.
    const PART: u64 = 2 << 20;

    /// Whether a line that begins a mapping is of it. Other mappings of that kind are never so large.
    fn has(self, mapping: &str) -> bool {
        let (range, rest) = mapping.split_once(' ').unwrap_or_default();
        let ends = range.split_once('-').and_then(|(from, to)| {
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        });
        let length = ends.map_or(0, |(from, to)| to.saturating_sub(from));
        let fits = if self.shared { rest.contains("/memfd:") } else { !rest.contains(['/', '[']) };
        fits && length >= Self::PART.max(self.bytes / 8)
    }
}

/// The share of memory in bytes, and the part of it that is none of the guest's.
fn parse_smaps(smaps: &str, guest: GuestMemory) -> (u64, u64) {
    let (mut all, mut own, mut is_guests) = (0, 0, false);
    for line in smaps.lines() {
        if let Some(share) = line.strip_prefix("Pss:") {
            let bytes = share.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10;
            all += bytes;
            own += if is_guests { 0 } else { bytes };
        } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            is_guests = guest.has(line);
        }
    }
    (all, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_cost_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 9 9 20 0 12 0 5 0 0";
        assert_eq!(parse_stat(stat), Some((2_000_000, 12)));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 fe:00 1 /usr/bin/vmm
Pss:                 100 kB
Pss_Dirty:             5 kB
7f0000000000-7f0020000000 rw-s 00000000 00:01 2 /memfd:memory (deleted)
Pss:                1000 kB
7f0030000000-7f0050000000 rw-p 00000000 00:00 0
Pss:                  10 kB
7f0060000000-7f0060021000 rw-p 00000000 00:00 0 [heap]
Pss:                   1 kB
";

    #[test]
    fn the_guests_memory_is_told_from_the_monitors() {
        let bytes = 512 << 20;
        assert_eq!(parse_smaps(SMAPS, GuestMemory { bytes, shared: true }), (1111 << 10, 111 << 10));
        assert_eq!(parse_smaps(SMAPS, GuestMemory { bytes, shared: false }), (1111 << 10, 1101 << 10));
        assert_eq!(parse_smaps("", GuestMemory { bytes, shared: true }), (0, 0));
    }

    #[test]
    fn this_process_costs_something() {
        let guest = GuestMemory { bytes: 512 << 20, shared: false };
        let costs = of_process(Path::new("/proc/self"), guest).unwrap();
        assert!(costs.memory > 0 && costs.threads > 0);
        assert_eq!(of_process(Path::new("/proc/0"), guest), None);
    }
}
