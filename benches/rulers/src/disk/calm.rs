//! A host that is the same for every workload: nothing of the one before is still to be written, and the page cache has
//! what it is to have.

use std::error::Error;
use std::fs::File;
use std::io;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::layers::Layers;
use super::served::Served;
use super::workload::{Cache, Workload};

pub(crate) fn calm(layers: &Layers, disk: &Served, workload: &Workload) -> Result<(), Box<dyn Error>> {
    File::open(&disk.top)?.sync_all()?;
    for path in [&layers.base(), &disk.top] {
        let mut file = File::open(path)?;
        match workload.cache {
            Cache::Full => drop(io::copy(&mut file, &mut io::sink())?),
            Cache::Empty => posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?,
        }
    }
    Ok(())
}
