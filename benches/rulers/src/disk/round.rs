//! A round: fresh overlays, and each workload on one disk after the other.

use std::error::Error;
use std::time::Duration;

use super::calm::calm;
use super::debian::System;
use super::guest::Guest;
use super::layers::Layers;
use super::rings::Rings;
use super::workload::{WARM_UP, Workload};
use super::{Measurement, Pair, Served};

/// What puts the load on the disks.
pub(crate) trait Load {
    /// Does to one of the disks what a workload says.
    fn run(&mut self, disk: usize, workload: &Workload) -> Result<Done, Box<dyn Error>>;
}

/// What a load has done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) requests: u64,
    pub(crate) time: Duration,
}

/// Without a system, the load comes from our own driver.
pub(crate) fn round(
    layers: &Layers,
    system: Option<&System>,
    workloads: &[&Workload],
    round: usize,
) -> Result<Vec<[Measurement; 2]>, Box<dyn Error>> {
    let disks: Pair = Served::both(layers)?;
    let mut load: Box<dyn Load> = match system {
        Some(system) => Box::new(Guest::boot(system, &disks, round % 2, &layers.beside("console.log"))?),
        None => Box::new(Rings::connect(&disks)?),
    };
    for workload in &WARM_UP {
        for which in order(round, 0) {
            load.run(which, workload)?;
        }
    }
    let mut measured = Vec::new();
    for (at, &workload) in workloads.iter().enumerate() {
        let mut both = [None; 2];
        for which in order(round, at) {
            calm(layers, &disks[which], workload)?;
            // Before and after it has requests, a server sleeps: what the load prepares costs it nothing.
            let before = disks[which].processor_time()?;
            let Done { requests, time } = load.run(which, workload)?;
            let processor = disks[which].processor_time()? - before;
            both[which] = Some(Measurement { requests, bytes: requests * workload.block, time, processor });
        }
        if let [Some(ours), Some(theirs)] = both {
            measured.push([ours, theirs]);
        }
    }
    Ok(measured)
}

/// Which of the two disks comes first: in turn, from workload to workload and from round to round.
fn order(round: usize, workload: usize) -> [usize; 2] {
    if (round + workload).is_multiple_of(2) { [0, 1] } else { [1, 0] }
}
