//! What this process holds: for tests of what starting and stopping machines leaves behind.

use std::fmt::Debug;
use std::fs;
use std::time::{Duration, Instant};

use crate::{PATIENCE, processes};

/// Counts of what the kernel keeps for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Its threads.
    pub threads: usize,
    /// Its open files and sockets.
    pub descriptors: usize,
    /// Its mappings of files and devices, and of memory that could be a guest's. Smaller memory is left out: how many stacks
    /// the C library keeps for later threads depends on how many were still ending when the next began, which is chance.
    pub mappings: usize,
    /// Its children, those among them that have ended and were not asked how.
    pub children: usize,
}

impl Holdings {
    /// As they are now.
    pub fn now() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux's list of mappings");
        Self {
            threads: entries("/proc/self/task"),
            // One of them reads the list.
            descriptors: entries("/proc/self/fd") - 1,
            mappings: mappings(&maps),
            children: processes::children(),
        }
    }

    /// These, with the mappings there are now: a first use maps what later ones use too, such as a library's file. All else is
    /// to be as it was before, and not as it is a moment after a use, of which a thread may still be on its way out.
    #[must_use]
    pub fn with_mappings_of_now(self) -> Self {
        Self { mappings: Self::now().mappings, ..self }
    }
}

/// The size and the alignment of such a heap of glibc's (`HEAP_MAX_SIZE` on 64-bit machines).
const HEAP: u64 = 64 << 20;

/// Memory of this size is neither a thread's stack nor some beside each other; the guests of tests have more.
const LARGE: u64 = 8 << 20;

/// Counts what `/proc/self/maps` lists (proc_pid_maps(5)), as [`Holdings::mappings`] has it. What two threads that meet in
/// the allocator make it map is chance too: such a heap begins at a multiple of its size.
fn mappings(maps: &str) -> usize {
    let counts = |(start, end, name): &(u64, u64, &str)| {
        !name.is_empty() || (end - start >= LARGE && !(start % HEAP == 0 && end - start < HEAP))
    };
    maps.lines().filter_map(mapping).filter(counts).count()
}

/// Where a mapping begins and ends, and what it is of: nothing where it is memory. What nobody may touch is none.
fn mapping(line: &str) -> Option<(u64, u64, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let permissions = fields.next()?;
    // The offset, the device and the inode are before the name.
    let name = fields.nth(3).unwrap_or_default();
    (!permissions.starts_with("---")).then_some((start, end, name))
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).expect("Linux's list").count()
}

/// Waits until something is again as it was, and says how it is where that does not come. The last of a thread or a
/// process goes a moment after whoever waits for it has heard.
#[expect(clippy::disallowed_methods, reason = "the kernel tells nobody when the last of a thread is gone")]
pub fn settles<T: PartialEq + Debug>(expected: &T, now: impl Fn() -> T) -> Result<(), T> {
    let deadline = Instant::now() + PATIENCE / 6;
    loop {
        let is = now();
        if is == *expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(is);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_and_what_is_let_go_is_not() {
        // Other tests of this program come and go at any moment: only what is more by many is ours.
        let before = Holdings::now();
        let held: Vec<_> = (0..100).map(|_| tempfile::tempfile().unwrap()).collect();
        let during = Holdings::now();
        drop(held);
        let after = Holdings::now();
        assert!(during.descriptors >= before.descriptors + 80, "{before:?} {during:?}");
        assert!(after.descriptors + 80 <= during.descriptors, "{during:?} {after:?}");
    }

    #[test]
    fn what_comes_late_is_waited_for() {
        let asked = std::cell::Cell::new(0);
        let now = || asked.replace(asked.get() + 1);
        assert_eq!(settles(&3, now), Ok(()));
    }

    #[test]
    fn heaps_and_stacks_of_threads_are_no_mappings_that_count() {
        let maps = "\
5581c0000000-5581c0001000 r--p 00000000 fe:00 1  /bin/x
7f3a2c000000-7f3a2c021000 rw-p 00000000 00:00 0
7f3a2c021000-7f3a30000000 ---p 00000000 00:00 0
7f3a34000000-7f3a38000000 rw-p 00000000 00:00 0
7f3a38000000-7f3a38001000 ---p 00000000 00:00 0
7f3a38001000-7f3a38201000 rw-p 00000000 00:00 0
7f3a39000000-7f3a39010000 rw-s 00000000 00:01 7  anon_inode:kvm-vcpu:0
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0  [stack]
";
        assert_eq!(mappings(maps), 4);
        assert!(Holdings::now().mappings > 3);
    }
}
