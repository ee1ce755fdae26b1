//! Rounds of the ruler without a guest: one disk after the other, workload by workload.

use std::error::Error;

use super::calm::calm;
use super::driver::Driver;
use super::layers::Layers;
use super::workload::{Cache, Workload};
use super::{Measurement, Pair, Served, order};

/// A driver needs fewer requests to settle than it can make in a second: so many times what `fio` is asked for.
const TIMES: u64 = 4;

pub(crate) fn round(
    layers: &Layers,
    workloads: &[&Workload],
    round: usize,
) -> Result<Vec<[Measurement; 2]>, Box<dyn Error>> {
    let disks: Pair = Served::both(layers)?;
    let mut drivers = [Driver::connect(&disks[0].socket)?, Driver::connect(&disks[1].socket)?];
    let mut measured = Vec::new();
    for (at, &workload) in workloads.iter().enumerate() {
        let mut both = [None; 2];
        for which in order(round, at) {
            calm(layers, &disks[which], workload)?;
            let before = disks[which].processor_time()?;
            let time = drivers[which].run(workload, requests(workload))?;
            let processor = disks[which].processor_time()? - before;
            let requests = requests(workload);
            both[which] = Some(Measurement { requests, bytes: requests * workload.block, time, processor });
        }
        if let [Some(ours), Some(theirs)] = both {
            measured.push([ours, theirs]);
        }
    }
    Ok(measured)
}

/// What is written for the first time can be written so only once, and what was read once is in the cache.
fn requests(workload: &Workload) -> u64 {
    let once = workload.grows() || workload.cache == Cache::Empty;
    if once { workload.requests } else { workload.requests * TIMES }
}
