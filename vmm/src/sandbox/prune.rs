//! Making room: VMs that do not run are removed with all that is theirs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::{Error, Sandbox, VmInfo, info};
use crate::home::{Home, HomeError, VmFolder, VmId, VmName, VmState};

/// A VM that does not run, and was removed or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PrunedVm {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: Option<VmName>,
    /// What it did last.
    pub state: VmState,
    /// What its folder and its layers take of the host's disk; what other VMs need of that stays.
    pub bytes: u64,
}

/// The VMs of a home that do not run. What is left of VMs without a name is cleared away.
pub fn stopped_vms(home: &Home) -> Result<Vec<PrunedVm>, Error> {
    home.clear_leftovers()?;
    let infos = info::look_at_all(home)?;
    Ok(infos.iter().filter(|info| is_idle(info)).map(|info| describe(home, info)).collect())
}

/// Removes these VMs with their disks, but for those that run by now. Returns those that are gone.
pub fn prune_vms(home: &Home, vms: Vec<PrunedVm>) -> Result<Vec<PrunedVm>, Error> {
    let mut gone = Vec::new();
    for vm in vms {
        // Its keeper may start it again by now.
        if !info::look_at(&home.folder(&vm.id))?.is_some_and(|info| is_idle(&info)) {
            continue;
        }
        match Sandbox::of(home.folder(&vm.id), None).remove(false) {
            Ok(()) => gone.push(vm),
            Err(Error::Running { .. } | Error::AlreadyRunning { .. }) => {}
            // Another command is at work on it.
            Err(Error::Home { source: HomeError::Busy { .. } }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

/// Whether a VM does nothing, and is not about to.
fn is_idle(info: &VmInfo) -> bool {
    !info.state.is_live() && info.state != VmState::Restarting
}

fn describe(home: &Home, info: &VmInfo) -> PrunedVm {
    let folder = home.folder(&info.id);
    PrunedVm { id: info.id.clone(), name: info.name.clone(), state: info.state, bytes: size(&folder) }
}

/// What a VM takes of the host's disk. It is told to a person: what cannot be read counts nothing.
fn size(folder: &VmFolder) -> u64 {
    let owned = folder.owned().unwrap_or_default();
    let folders: BTreeSet<_> = owned.into_iter().chain([folder.path()]).collect();
    folders.iter().map(|folder| size_of_files(folder)).sum()
}

fn size_of_files(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // An overlay at a place of its user's choice is a link, and goes too.
    let files = entries.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    files.filter(std::fs::Metadata::is_file).map(|file| file.blocks() * 512).sum()
}
