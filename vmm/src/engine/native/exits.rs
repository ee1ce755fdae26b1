//! Counts the exits of the guest: each processor's thread counts its own, and whoever wants to know adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::ExitCounter;
use crate::machine::{Accesses, Exits};

/// A number that one thread counts and any thread reads.
#[derive(Default)]
struct Count(AtomicU64);

impl Count {
    /// There is no other writer, so this need not be one operation.
    fn add_one(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Accesses to one device. A cache line of its own: what one processor writes, no other one's thread has near.
#[derive(Default)]
#[repr(align(128))]
struct Place {
    reads: Count,
    writes: Count,
}

impl Place {
    fn get(&self) -> Accesses {
        Accesses { reads: self.reads.get(), writes: self.writes.get() }
    }
}

/// What one processor came out for. Its thread alone counts.
pub(super) struct Counts {
    /// For each device, and at the end for where none is.
    places: Box<[Place]>,
    kicks: Count,
}

impl Counts {
    /// For so many devices.
    pub(super) fn new(devices: usize) -> Self {
        Self { places: (0..=devices).map(|_| Place::default()).collect(), kicks: Count::default() }
    }

    /// A read from the device of this number; `None`: where nothing is.
    pub(super) fn add_read(&self, device: Option<usize>) {
        self.place(device).inspect(|place| place.reads.add_one());
    }

    /// A write, in the same way.
    pub(super) fn add_write(&self, device: Option<usize>) {
        self.place(device).inspect(|place| place.writes.add_one());
    }

    pub(super) fn add_kick(&self) {
        self.kicks.add_one();
    }

    fn place(&self, device: Option<usize>) -> Option<&Place> {
        self.places.get(device.unwrap_or(self.places.len() - 1))
    }
}

/// The counts of a whole machine.
pub(super) struct Counter {
    pub(super) names: Vec<String>,
    pub(super) processors: Vec<Arc<Counts>>,
}

impl ExitCounter for Counter {
    fn exits(&self) -> Exits {
        let at = |index: usize| {
            let of_each = self.processors.iter().filter_map(|counts| counts.places.get(index));
            of_each.map(Place::get).fold(Accesses::default(), |sum, one| sum + one)
        };
        let devices = self.names.iter().enumerate().map(|(index, name)| (name.clone(), at(index))).collect();
        let kicks = self.processors.iter().map(|counts| counts.kicks.get()).sum();
        Exits::new(devices, at(self.names.len()), kicks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_counts_are_added_by_device() {
        let processors: Vec<_> = (0..2).map(|_| Arc::new(Counts::new(2))).collect();
        let counter = Counter { names: vec!["serial".to_owned(), "block".to_owned()], processors };
        let [first, second] = &counter.processors[..] else { panic!("two processors") };
        first.add_read(Some(0));
        second.add_read(Some(0));
        second.add_write(Some(1));
        first.add_write(None);
        second.add_kick();
        let exits = counter.exits();
        assert_eq!(exits.devices["serial"], Accesses { reads: 2, writes: 0 });
        assert_eq!(exits.devices["block"], Accesses { reads: 0, writes: 1 });
        assert_eq!((exits.nothing.writes, exits.kicks, exits.total), (1, 1, 4));
    }
}
