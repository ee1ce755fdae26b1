//! Snapshots of a VM's disk, and its size: all of it by layers upon layers.

use std::time::Duration;

use serde::Serialize;

use super::clone::stop_first;
use super::live::LiveVm;
use super::space::clear_partial;
use super::{DiskSize, layer_upon, root, settle, spec_of, virtual_size};
use crate::home::{HeldVm, Snapshot, Timestamp, VmName, VmSpec, nearest_name};
use crate::image::ImageStore;
use crate::sandbox::error::Error;
use crate::sandbox::{Sandbox, hold};

/// A state of a VM's disk that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// When it was taken.
    pub created: Timestamp,
    /// How large the disk was.
    pub disk_size: u64,
}

impl Sandbox {
    /// The snapshots of its disk, the oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, Error> {
        let spec = self.link.folder().spec()?.ok_or_else(|| self.gone())?;
        let described = spec.snapshots.iter().map(|snapshot| {
            Ok(SnapshotInfo {
                name: snapshot.name.to_string(),
                created: snapshot.created,
                disk_size: virtual_size(&snapshot.layers)?,
            })
        });
        described.collect()
    }

    /// Keeps what is on its disk now. If the VM runs, its guest writes back what it has and stands still for a moment, so
    /// long as is returned: what is kept are file systems as they are when they were unmounted.
    pub fn create_snapshot(&self, name: &str) -> Result<Option<Duration>, Error> {
        let name: VmName = name.parse().map_err(crate::home::HomeError::from)?;
        match self.snapshot_stopped(&name) {
            Err(Error::MustStop { .. }) => self.snapshot_running(name).map(Some),
            outcome => outcome.map(|()| None),
        }
    }

    fn snapshot_running(&self, name: VmName) -> Result<Duration, Error> {
        let live = LiveVm::of(self)?;
        check_new(&live.spec, &name)?;
        if live.spec.ephemeral() {
            let message =
                format!("{} has no name, so its snapshots go with it when it ends: clone it", self.name());
            return Err(Error::Invalid { message });
        }
        let store = ImageStore::open(self.link.folder().home().root())?;
        live.add_layer(&store, Some(name))
    }

    fn snapshot_stopped(&self, name: &VmName) -> Result<(), Error> {
        self.change_disk(|held, store, spec| {
            check_new(spec, name)?;
            let layers = settle(store, held, spec)?;
            spec.snapshots.push(Snapshot { name: name.clone(), created: Timestamp::now(), layers });
            Ok(())
        })
    }

    /// Brings its disk back to what it was at a snapshot; what was written since is lost. The VM must not run.
    pub fn restore_snapshot(&self, name: &str) -> Result<(), Error> {
        self.change_disk(|held, store, spec| {
            let layers = spec.snapshots[self.position(spec, name)?].layers.clone();
            spec.machine.disks[0].layers = layer_upon(store, held, &layers, virtual_size(&layers)?)?;
            Ok(())
        })
    }

    /// Forgets a snapshot; what only that needed is removed. The VM must not run.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), Error> {
        self.change_disk(|_, _, spec| {
            let position = self.position(spec, name)?;
            spec.snapshots.remove(position);
            Ok(())
        })
    }

    /// Makes its disk larger. The file system on it grows when the VM starts the next time; it must not run now.
    pub fn resize_disk(&self, size: DiskSize) -> Result<(), Error> {
        self.change_disk(|held, store, spec| {
            let layers = root(spec)?.layers.clone();
            let now = virtual_size(&layers)?;
            check_grows(now, size)?;
            check_whole(&spec.configuration.root.device)?;
            spec.configuration.root.grow = true;
            if size.bytes() > now {
                spec.machine.disks[0].layers = layer_upon(store, held, &layers, size.bytes())?;
            }
            Ok(())
        })
    }

    fn position(&self, spec: &VmSpec, name: &str) -> Result<usize, Error> {
        let position = spec.snapshots.iter().position(|snapshot| snapshot.name.as_str() == name);
        position.ok_or_else(|| {
            let names = spec.snapshots.iter().map(|snapshot| snapshot.name.as_str());
            let nearest = nearest_name(name, names).map(str::to_owned);
            Error::NoSnapshot { vm: self.name().to_owned(), name: name.to_owned(), nearest }
        })
    }

    /// Changes the description of the disk of a VM that does not run, and gives up the layers that are needed no more.
    pub(super) fn change_disk<T>(
        &self,
        change: impl FnOnce(&HeldVm, &ImageStore, &mut VmSpec) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let held = hold(self.link.folder(), self.name()).map_err(stop_first)?;
        clear_partial(&held)?;
        let store = ImageStore::open(held.folder().home().root())?;
        let before = spec_of(&held)?;
        let mut spec = before.clone();
        match change(&held, &store, &mut spec) {
            Ok(made) => {
                // Where that fails, a power cut may still bring back either description: all that one of them names stays,
                // and the next change clears up.
                held.write_spec(&spec)?;
                held.disown_unneeded(&spec)?;
                Ok(made)
            }
            Err(error) => {
                // What was made for it is needed by nobody. The first error is the one to tell.
                let _ = held.disown_unneeded(&before);
                Err(error)
            }
        }
    }
}

/// Whether no snapshot has this name.
fn check_new(spec: &VmSpec, name: &VmName) -> Result<(), Error> {
    if spec.snapshots.iter().all(|snapshot| snapshot.name != *name) {
        return Ok(());
    }
    Err(Error::Invalid { message: format!("there is a snapshot {name} already") })
}

/// A root that is a partition stays as large as that is.
pub(in crate::sandbox) fn check_whole(device: &str) -> Result<(), Error> {
    if device.ends_with(|last: char| last.is_ascii_alphabetic()) {
        return Ok(());
    }
    let message = format!(
        "the root of this image is the partition {device}, which does not grow with its disk: give it another disk (--disk)"
    );
    Err(Error::Invalid { message })
}

/// A disk becomes larger only: what lies beyond the end of a smaller one would be lost.
pub(in crate::sandbox) fn check_grows(now: u64, size: DiskSize) -> Result<(), Error> {
    if size.bytes() >= now {
        return Ok(());
    }
    let message = format!("the disk has {} MiB: it can become larger and not smaller", now >> 20);
    Err(Error::Invalid { message })
}
