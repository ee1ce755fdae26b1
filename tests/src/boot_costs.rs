//! What boots cost in exits of the guest, by device: the least and the most over some boots, and whether that is more
//! than a baseline.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use vmm::MemorySize;
use vmm::machine::{Accesses, Exits};

use crate::bare_boot::{BareBoot, COMMAND_LINE};
use crate::engine_machine;
use crate::{TestHome, TestVm};

/// The least and the most of what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range(pub u64, pub u64);

impl Range {
    /// Beyond what was measured by no more than the measurements differ. One more is nothing: it may be an interrupt that
    /// fell otherwise in one boot of a hundred.
    fn permits(self, count: u64) -> bool {
        count <= self.1 + (self.1 - self.0).max(1)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{} to {}", self.0, self.1) }
    }
}

/// What accesses to a device cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Reads that left the guest.
    pub reads: Range,
    /// Writes that left the guest.
    pub writes: Range,
}

impl Cost {
    fn of(accesses: Accesses) -> Self {
        let once = |count| Range(count, count);
        Self { reads: once(accesses.reads), writes: once(accesses.writes) }
    }

    fn include(&mut self, accesses: Accesses) {
        for (range, count) in [(&mut self.reads, accesses.reads), (&mut self.writes, accesses.writes)] {
            *range = Range(range.0.min(count), range.1.max(count));
        }
    }
}

/// What a kind of boot costs, by device; accesses where none is are those to `nothing`.
pub type Costs = BTreeMap<String, Cost>;

/// The kinds of boot, by name.
pub type Baseline = BTreeMap<String, Costs>;

/// A kernel alone, to the panic for want of a root.
pub const BARE: &str = "bare";

/// A VM from its start until it is ready, and has used its source of entropy as well.
pub const USED: &str = "used";

/// Commands on a VM that runs, so many one after the other.
pub const COMMANDS: &str = "commands";
const COMMANDS_RUN: usize = 20;

/// The exits of one boot of each kind, and of commands, in the laboratory.
pub fn measure() -> Vec<(&'static str, Exits)> {
    let (used, commands) = used_and_commands();
    vec![(BARE, bare()), (USED, used), (COMMANDS, commands)]
}

/// Adds what a boot cost.
pub fn include(baseline: &mut Baseline, kind: &str, exits: &Exits) {
    let costs = baseline.entry(kind.to_owned()).or_default();
    for (device, accesses) in by_device(exits) {
        costs
            .entry(device.to_owned())
            .and_modify(|cost| cost.include(accesses))
            .or_insert_with(|| Cost::of(accesses));
    }
}

/// What a boot cost beyond the baseline: a sentence for each device that added something.
pub fn growth(costs: &Costs, exits: &Exits) -> Vec<String> {
    let mut sentences = Vec::new();
    for (device, accesses) in by_device(exits) {
        let Some(cost) = costs.get(device) else {
            if accesses.exits() > 0 {
                sentences.push(format!("{device} is new: {} exits", accesses.exits()));
            }
            continue;
        };
        for (kind, range, count) in
            [("reads", cost.reads, accesses.reads), ("writes", cost.writes, accesses.writes)]
        {
            if !range.permits(count) {
                sentences.push(format!("{device} has {count} {kind}, and had {range}"));
            }
        }
    }
    sentences
}

fn by_device(exits: &Exits) -> impl Iterator<Item = (&str, Accesses)> {
    let devices = exits.devices.iter().map(|(name, accesses)| (name.as_str(), *accesses));
    devices.chain([("nothing", exits.nothing)])
}

fn bare() -> Exits {
    let kernel = engine_machine::kernel().expect("the laboratory has an image");
    let memory = MemorySize::mebibytes(256).expect("enough memory");
    let boot = BareBoot { kernel: &kernel, cpus: 1, memory, command_line: COMMAND_LINE };
    let mut console = Vec::new();
    let booted = boot.run(&mut console).expect("the kernel boots");
    let said = String::from_utf8_lossy(&console);
    assert!(said.contains("Unable to mount root fs"), "{said}");
    booted.exits
}

fn used_and_commands() -> (Exits, Exits) {
    let home = TestHome::new();
    let vm = home.machine("costs", &["--cpus", "1", "--memory", "256M"]);
    let exits = |which: &str| -> Exits {
        serde_json::from_value(vm.info()["exits"][which].clone()).expect("the engine counts exits")
    };
    let ready = exits("until_ready");
    let random =
        vm.shell("modprobe virtio_rng && head -c 16 /dev/hwrng | wc -c").succeeded().stdout().to_owned();
    assert_eq!(random.trim(), "16");
    // The command's own exits count for the disk and the sockets; those of entropy are what it was run for.
    let mut used = ready;
    let entropy = exits("in_all").devices["entropy"];
    used.devices.insert("entropy".to_owned(), entropy);
    let used = Exits::new(used.devices, used.nothing, used.kicks);
    (used, commands(&vm, || exits("in_all")))
}

fn commands(vm: &TestVm<'_>, exits: impl Fn() -> Exits) -> Exits {
    let run = || vm.exec(&["true"]).succeeded();
    // What the first one reads from the disk stays in memory.
    run();
    let before = exits();
    (0..COMMANDS_RUN).for_each(|_| drop(run()));
    let after = exits();
    let since = |before: Accesses, after: Accesses| Accesses {
        reads: after.reads - before.reads,
        writes: after.writes - before.writes,
    };
    let devices = after.devices.iter().map(|(name, accesses)| {
        (name.clone(), since(before.devices.get(name).copied().unwrap_or_default(), *accesses))
    });
    Exits::new(devices.collect(), since(before.nothing, after.nothing), after.kicks - before.kicks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(serial: u64, block: u64) -> Exits {
        let accesses = |reads| Accesses { reads, ..Accesses::default() };
        let devices =
            [("serial", serial), ("block", block)].map(|(name, reads)| (name.to_owned(), accesses(reads)));
        Exits::new(BTreeMap::from(devices), Accesses::default(), 0)
    }

    #[test]
    fn the_device_that_added_exits_is_named() {
        let mut baseline = Baseline::new();
        include(&mut baseline, BARE, &exits(10, 40));
        include(&mut baseline, BARE, &exits(10, 43));
        let costs = &baseline[BARE];
        assert_eq!(costs["block"].reads, Range(40, 43));
        assert_eq!(growth(costs, &exits(10, 46)), Vec::<String>::new());
        assert_eq!(growth(costs, &exits(9, 30)), Vec::<String>::new());
        assert_eq!(growth(costs, &exits(11, 40)), Vec::<String>::new());
        assert_eq!(growth(costs, &exits(12, 40)), ["serial has 12 reads, and had 10"]);
        assert_eq!(growth(costs, &exits(10, 47)), ["block has 47 reads, and had 40 to 43"]);
        let new = Exits::new(
            BTreeMap::from([("net".to_owned(), Accesses { writes: 3, ..Accesses::default() })]),
            Accesses::default(),
            0,
        );
        assert_eq!(growth(costs, &new), ["net is new: 3 exits"]);
    }
}
