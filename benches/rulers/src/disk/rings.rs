//! The ruler without a guest: our own driver at the other end of vhost-user.

use std::error::Error;

use super::Pair;
use super::driver::Driver;
use super::round::{Done, Load};
use super::workload::{Cache, Workload};

/// A driver needs fewer requests to settle than it can make in a second: so many times what `fio` is asked for.
const TIMES: u64 = 4;

/// A driver for each disk.
pub(crate) struct Rings([Driver; 2]);

impl Rings {
    pub(crate) fn connect([ours, theirs]: &Pair) -> Result<Self, Box<dyn Error>> {
        Ok(Self([Driver::connect(&ours.socket)?, Driver::connect(&theirs.socket)?]))
    }
}

impl Load for Rings {
    fn run(&mut self, disk: usize, workload: &Workload) -> Result<Done, Box<dyn Error>> {
        let requests = requests(workload);
        let time = self.0[disk].run(workload, requests)?;
        Ok(Done { requests, time })
    }
}

/// What is written for the first time can be written so only once, and what was read once is in the cache.
fn requests(workload: &Workload) -> u64 {
    let once = workload.is_first() || workload.cache == Cache::Empty;
    if once { workload.requests } else { workload.requests * TIMES }
}
