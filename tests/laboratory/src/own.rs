//! What a monitor has for itself, in memory and in time, seen from outside.

use std::fs;
use std::io;
use std::ops::Range;

/// Memory without the guest's, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Pages that no other process has.
    pub private: u64,
    /// Pages of files and libraries that others may have, too.
    pub shared: u64,
}

impl Memory {
    /// What a process has beside the memory of its guest, which has so many KiB.
    pub fn without_guest(process: u32, guest: u64) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/smaps"))?;
        Ok(without_guest(&mappings(&text), guest))
    }
}

/// User and system time of a process until now, its guest's among it.
pub fn processor_seconds(process: u32) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: the state is field 3, the times are 14 and 15 (proc_pid_stat(5)).
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// `USER_HZ`, which no kernel for x86_64 has otherwise.
const TICKS: f64 = 100.0;

/// A mapping of a process.
#[derive(Clone, Debug, Default)]
struct Mapping {
    start: u64,
    end: u64,
    memory: Memory,
}

impl Mapping {
    fn kib(&self) -> u64 {
        (self.end - self.start) >> 10
    }
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.ends_with(':') {
            let kib = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
            if let Some(Mapping { memory, .. }) = mappings.last_mut() {
                match first {
                    "Private_Clean:" | "Private_Dirty:" => memory.private += kib,
                    "Shared_Clean:" | "Shared_Dirty:" => memory.shared += kib,
                    _ => {}
                }
            }
        } else if let Some((start, end)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).unwrap_or_default();
            mappings.push(Mapping { start: address(start), end: address(end), memory: Memory::default() });
        }
    }
    mappings
}

/// Leaves out the guest's memory: mappings one behind the other from the beginning of one of them, as long as it is. In
/// its middle may be a kernel's file; its end may be one mapping with what lies behind it by chance, and that counts as
/// whose most of it is.
fn without_guest(mappings: &[Mapping], guest: u64) -> Memory {
    let guests = (0..mappings.len()).filter_map(|first| guest_from(mappings, first, guest));
    let private = |range: &Range<usize>| -> u64 {
        mappings.get(range.clone()).unwrap_or_default().iter().map(|mapping| mapping.memory.private).sum()
    };
    let guests = guests.max_by_key(private).unwrap_or(0..0);
    let own = mappings.iter().enumerate().filter(|(index, _)| !guests.contains(index));
    own.fold(Memory::default(), |sum, (_, mapping)| Memory {
        private: sum.private + mapping.memory.private,
        shared: sum.shared + mapping.memory.shared,
    })
}

/// The mappings that a guest's memory takes which begins with the first of them. `None`: there is a gap in it.
fn guest_from(mappings: &[Mapping], first: usize, guest: u64) -> Option<Range<usize>> {
    let mut left = guest;
    let mut end = mappings.get(first)?.start;
    for (index, mapping) in mappings.iter().enumerate().skip(first) {
        if mapping.start != end {
            return None;
        }
        if mapping.kib() >= left {
            let is_guests = left * 2 > mapping.kib();
            return Some(first..index + usize::from(is_guests));
        }
        (left, end) = (left - mapping.kib(), mapping.end);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 0 00:00 0 /monitor
Private_Clean:         4 kB
Shared_Clean:          8 kB
100000-140000 rw-p 0 00:00 0
Private_Dirty:       100 kB
140000-180000 rw-p 0 00:00 0 /kernel
Private_Dirty:        50 kB
180000-200000 rw-p 0 00:00 0
Private_Dirty:       200 kB
200000-201000 rw-p 0 00:00 0
Private_Dirty:         2 kB
";

    #[test]
    fn a_guests_memory_in_several_mappings_is_not_the_monitors() {
        let memory = without_guest(&mappings(SMAPS), 1024);
        assert_eq!(memory, Memory { private: 6, shared: 8 });
    }

    #[test]
    fn a_guests_memory_whose_end_is_one_mapping_with_other_memory_is_not_the_monitors() {
        let joined = SMAPS.replace("180000-200000", "180000-200800");
        let memory = without_guest(&mappings(&joined), 1024);
        assert_eq!(memory, Memory { private: 6, shared: 8 });
    }

    #[test]
    fn without_a_guest_all_memory_is_the_monitors() {
        let memory = without_guest(&mappings(SMAPS), 1 << 20);
        assert_eq!(memory, Memory { private: 356, shared: 8 });
    }
}
