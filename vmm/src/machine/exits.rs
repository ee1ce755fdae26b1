//! How often a machine's processors left the guest, by what for: the figure of a boot that is the same each time,
//! however fast the host is.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// Exits of the guest that the monitor handled, of all processors together.
///
/// What the hypervisor handles alone is not among them: a notification of a queue, an interrupt, a timer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exits {
    /// All accesses, whatever they met. Kicks are not the guest's doing.
    pub total: u64,
    /// Accesses by the device that they met: `serial`, `power`, and the virtio devices by kind, the second of a kind
    /// with its number behind (`block2`).
    pub devices: BTreeMap<String, Accesses>,
    /// Accesses to ports and addresses where nothing is.
    pub nothing: Accesses,
    /// How often a processor was called out of the guest by us, for a pause or the end.
    pub kicks: u64,
}

impl Exits {
    /// The exits by what they were for.
    pub fn new(devices: BTreeMap<String, Accesses>, nothing: Accesses, kicks: u64) -> Self {
        let total = devices.values().chain([&nothing]).map(|accesses| accesses.exits()).sum();
        Self { total, devices, nothing, kicks }
    }
}

impl fmt::Display for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exits", self.total)?;
        let nothing = [("nothing", &self.nothing)];
        let devices = self.devices.iter().map(|(name, accesses)| (name.as_str(), accesses));
        for (name, accesses) in devices.chain(nothing).filter(|(_, accesses)| accesses.exits() > 0) {
            write!(f, ", {name} {} reads {} writes", accesses.reads, accesses.writes)?;
        }
        write!(f, "; {} kicks", self.kicks)
    }
}

/// Accesses to a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accesses {
    /// Reads that left the guest.
    pub reads: u64,
    /// Writes that left the guest.
    pub writes: u64,
}

impl Accesses {
    /// How many exits they were.
    pub fn exits(self) -> u64 {
        self.reads + self.writes
    }
}

impl Add for Accesses {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { reads: self.reads + other.reads, writes: self.writes + other.writes }
    }
}

/// Exits of one run of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunExits {
    /// From the start until the VM was ready. `None`: it is not, or its engine counts none.
    pub until_ready: Option<Box<Exits>>,
    /// From the start until now, or until the end. `None`: its engine counts none.
    pub in_all: Option<Box<Exits>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_by_what_they_were_for() {
        let accesses = |reads, writes| Accesses { reads, writes };
        let devices = [("serial".to_owned(), accesses(2, 3)), ("vsock".to_owned(), accesses(0, 0))];
        let exits = Exits::new(BTreeMap::from(devices), accesses(1, 0), 4);
        assert_eq!(exits.to_string(), "6 exits, serial 2 reads 3 writes, nothing 1 reads 0 writes; 4 kicks");
        let read: Exits = serde_json::from_str(&serde_json::to_string(&exits).unwrap()).unwrap();
        assert_eq!(read, exits);
    }
}
