//! A disk of ours beside the same disk of `qemu-storage-daemon`: both are served over vhost-user by a process of its own,
//! which has nothing else to do, so that its processor time is the disk's.
//!
//! Two rulers: `fio` in a Debian guest that QEMU's TCG runs, which has both disks at once, and a driver of our own without
//! a guest (`rings`), which hides less, since nobody emulates it.

mod calm;
mod debian;
mod driver;
mod fio;
mod guest;
mod layers;
mod report;
mod rings;
mod round;
mod serve;
mod served;
mod workload;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use self::layers::Layers;
use self::report::Report;
use self::served::{Served, Server};
use self::workload::{WORKLOADS, Workload};
use vmm_benches::host;

pub(crate) use self::serve::serve;

/// What is compared, how and how long.
pub(crate) struct Comparison {
    pub(crate) ruler: Ruler,
    /// Where the disks are made. They take 5 GiB there.
    pub(crate) folder: PathBuf,
    pub(crate) json: PathBuf,
    pub(crate) rounds: usize,
    /// Only the workloads with this in their name.
    pub(crate) filter: Option<String>,
}

/// What puts the load on the disks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruler {
    /// `fio` in a guest.
    Fio,
    /// A driver without a guest.
    Rings,
}

impl FromStr for Ruler {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fio" => Ok(Self::Fio),
            "rings" => Ok(Self::Rings),
            _ => Err(format!("there is no ruler {name}, only fio and rings")),
        }
    }
}

/// What a workload did to one disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measurement {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    /// Of the process that serves the disk.
    pub(crate) processor: Duration,
}

/// Both disks, as far as a ruler needs to know them: ours and the peer's.
type Pair = [Served; 2];

pub(crate) fn run(comparison: &Comparison) -> Result<(), Box<dyn Error>> {
    let host = host::describe();
    println!("{host}");
    fs::create_dir_all(&comparison.folder)?;
    let layers = Layers::prepare(&comparison.folder)?;
    let system = match comparison.ruler {
        Ruler::Fio => Some(debian::prepare(&comparison.folder)?),
        Ruler::Rings => None,
    };
    let chosen = |workload: &&Workload| {
        comparison.filter.as_ref().is_none_or(|filter| workload.name.contains(filter.as_str()))
    };
    let workloads: Vec<&Workload> = WORKLOADS.iter().filter(chosen).collect();
    let mut report = Report::new(&workloads);
    for round in 0..comparison.rounds {
        let measured = round::round(&layers, system.as_ref(), &workloads, round)?;
        println!("{}", report.add(&measured));
    }
    println!("\n{}", report.table());
    let peer = Server::Peer.version();
    let report = json!({ "host": host, "peer": peer, "measured": report.json() });
    fs::write(&comparison.json, serde_json::to_string_pretty(&report)?)?;
    println!("written to {}", comparison.json.display());
    Ok(())
}
