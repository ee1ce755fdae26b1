//! The disks of VMs: the root in its layers, and disks of the user's beside it.
//!
//! A layer that something lies on is never written again. So a snapshot, a clone and a larger disk are all one thing:
//! an empty layer upon what is there, which takes no time however much that is.

mod clone;
mod commit;
mod extra;
mod file;
mod live;
mod outside;
mod size;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;

pub use clone::Cloned;
pub use commit::Committed;
pub use extra::ExtraDisk;
pub(super) use extra::true_path;
pub use file::{DiskCheck, DiskFile};
pub use size::{DiskSize, DiskSizeError};
pub use snapshot::SnapshotInfo;
pub(super) use snapshot::{check_grows, check_whole};
pub use space::DiskSpace;

use std::path::{Path, PathBuf};

use snafu::ResultExt;
use vmm_disk::{Format, LayerSpec};

use super::error::{DiskSnafu, Error};
use crate::home::{HeldVm, HomeError, VmFolder, VmSpec};
use crate::image::{ImageStore, LayerId, NewLayer};
use crate::machine::DiskSpec;

/// A VM's description, to be changed by whoever has its lock.
fn spec_of(held: &HeldVm) -> Result<VmSpec, Error> {
    read_spec(held.folder())
}

fn read_spec(folder: &VmFolder) -> Result<VmSpec, Error> {
    let gone = || HomeError::NoSuchVm { wanted: folder.id().to_string(), nearest: None };
    Ok(folder.spec()?.ok_or_else(gone)?)
}

/// The disk that a VM starts from: it is always the first.
fn root(spec: &VmSpec) -> Result<&DiskSpec, Error> {
    let disk = spec.machine.disks.first();
    let disk = disk.ok_or_else(|| Error::Invalid { message: "this VM has no disk".to_owned() })?;
    if disk.read_only {
        let message = "what this VM writes to its root stays in memory: it has no disk that could change";
        return Err(Error::Invalid { message: message.to_owned() });
    }
    Ok(disk)
}

/// Whether the layer with this data is among the folders of those that a VM owns.
fn is_own(owned: &[PathBuf], data: &Path) -> bool {
    owned.iter().any(|owned| owned.file_name() == data.parent().and_then(Path::file_name))
}

/// How large a chain of layers is for who reads it: what its top layer says.
fn virtual_size(layers: &[LayerSpec]) -> Result<u64, Error> {
    let Some(top) = layers.last() else { return Ok(0) };
    Ok(vmm_disk::inspect(&top.path, top.format).context(DiskSnafu)?.virtual_size)
}

/// Whether nothing was ever written to the top layer, and there is another one below it.
fn has_untouched_top(layers: &[LayerSpec]) -> Result<bool, Error> {
    match layers {
        [_, .., top] => vmm_disk::is_untouched(&top.path, top.format).context(DiskSnafu),
        _ => Ok(false),
    }
}

/// An empty layer of `owner`'s upon these, recorded as its own before it is there.
fn layer_upon(
    store: &ImageStore,
    owner: &HeldVm,
    layers: &[LayerSpec],
    size: u64,
) -> Result<Vec<LayerSpec>, Error> {
    check_depth(layers)?;
    let below = layers.last().and_then(|layer| layer_id(&layer.path));
    let new = NewLayer { format: Format::Qcow2, below, durable: true };
    let id = store.layers().draw_id()?;
    owner.will_own(&store.layers().folder_of(&id))?;
    let top = store.layers().create_as(id, new, |path| vmm_disk::create_overlay(path, size))?;
    Ok(layers.iter().cloned().chain([top.spec()]).collect())
}

/// Has a VM that does not run go on with an empty layer upon those that it has, unless its top is one already. Gives those
/// that it does not write any more. Its new description is yet to be written.
fn settle(store: &ImageStore, held: &HeldVm, spec: &mut VmSpec) -> Result<Vec<LayerSpec>, Error> {
    let mut layers = root(spec)?.layers.clone();
    let size = virtual_size(&layers)?;
    let below = &layers[..layers.len().saturating_sub(1)];
    if has_untouched_top(&layers)? && virtual_size(below)? == size {
        layers.pop();
    } else {
        spec.machine.disks[0].layers = layer_upon(store, held, &layers, size)?;
    }
    Ok(layers)
}

/// Whether there can be another layer upon these.
fn check_depth(layers: &[LayerSpec]) -> Result<(), Error> {
    if layers.len() < vmm_disk::MAX_LAYERS {
        return Ok(());
    }
    let message = format!(
        "the disk has {} layers, which is as many as there can be: make them fewer with vmm flatten",
        layers.len()
    );
    Err(Error::Invalid { message })
}

/// The layer whose data this is.
fn layer_id(data: &Path) -> Option<LayerId> {
    data.parent()?.file_name()?.to_str()?.parse().ok()
}
