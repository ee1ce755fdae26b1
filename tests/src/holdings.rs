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
    /// Its mappings. What the allocator and the threads' stacks keep for the next one is among them.
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
            mappings: maps.lines().count(),
            children: processes::children(),
        }
    }
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
}
