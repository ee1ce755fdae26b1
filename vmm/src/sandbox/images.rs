//! Images together with the VMs that use them: which do, removing what none does, and making room.

use std::collections::BTreeSet;
use std::path::Path;

use vmm_sys::FileLock;

use super::Error;
use crate::arch::Arch;
use crate::home::{Home, HomeError, VmFolder};
use crate::image::{Image, ImageRef, ImageStore, LayerId, Removed};

/// The VMs of a home that boot from an image, as they are called.
pub fn image_users(home: &Home, image: &Image) -> Result<Vec<String>, Error> {
    users_of(home, &image.reference(), image.arch())
}

fn users_of(home: &Home, image: &ImageRef, arch: Arch) -> Result<Vec<String>, Error> {
    let mut users = Vec::new();
    let reference = image.to_string();
    for folder in home.folders()? {
        let Some(spec) = folder.spec()? else { continue };
        if spec.image_reference == reference && spec.machine.arch == arch {
            users.push(spec.display_name().to_owned());
        }
    }
    Ok(users)
}

/// Removes an image that no VM uses, and the layers of its disk that nothing else needs.
pub fn remove_image(home: &Home, image: &Image) -> Result<Vec<Removed>, Error> {
    let quiet = Quiet::wait_for(home)?;
    refuse_if_used(home, &image.reference(), image.arch())?;
    let store = ImageStore::open(home.root())?;
    Ok(store.remove_with_layers(image, &quiet.layers)?)
}

/// Removes an image whose record cannot be read, by its exact name, if no VM uses it. Its layers stay.
pub fn remove_unreadable_image(home: &Home, image: &ImageRef, arch: Arch) -> Result<Vec<Removed>, Error> {
    let _quiet = Quiet::wait_for(home)?;
    refuse_if_used(home, image, arch)?;
    Ok(ImageStore::open(home.root())?.remove_unreadable(image, arch)?)
}

fn refuse_if_used(home: &Home, image: &ImageRef, arch: Arch) -> Result<(), Error> {
    let users = users_of(home, image, arch)?;
    if users.is_empty() { Ok(()) } else { Err(Error::ImageInUse { image: image.to_string(), users }) }
}

/// Removes downloads, what dead processes left, and layers that neither an image nor a VM needs, or only tells of it.
pub fn prune_images(home: &Home, dry_run: bool) -> Result<Vec<Removed>, Error> {
    let quiet = Quiet::wait_for(home)?;
    let store = ImageStore::open(home.root())?;
    let mut removed = Vec::new();
    // What boots a file is found again when the file is booted again.
    for image in store.list()?.iter().filter(|image| image.is_of_file()) {
        if !users_of(home, &image.reference(), image.arch())?.is_empty() {
            continue;
        }
        if dry_run {
            removed.push(store.removed(image));
        } else {
            removed.extend(store.remove_with_layers(image, &quiet.layers)?);
        }
    }
    removed.extend(store.prune(&quiet.there, &quiet.layers, dry_run)?);
    Ok(removed)
}

/// A home in which no VM is being made, for as long as this lives.
pub(super) struct Quiet {
    /// The layers that there were before those of the VMs were looked for.
    there: BTreeSet<LayerId>,
    /// The layers that the VMs need.
    layers: BTreeSet<LayerId>,
    _lock: FileLock,
}

impl Quiet {
    pub(super) fn wait_for(home: &Home) -> Result<Self, Error> {
        home.clear_leftovers()?;
        let lock = home.lock()?;
        let store = ImageStore::open(home.root())?;
        let whole = store.layers().list()?.into_iter().map(|layer| layer.id);
        let there = whole.chain(store.layers().half_removed()?).collect();
        let mut layers = BTreeSet::new();
        for folder in home.all_folders()? {
            layers.extend(layers_of(&folder)?);
        }
        Ok(Self { there, layers, _lock: lock })
    }
}

/// The layers that a VM needs: those of its disks, and those that are recorded as its own.
fn layers_of(folder: &VmFolder) -> Result<Vec<LayerId>, Error> {
    let id_of = |path: &Path| path.file_name()?.to_str()?.parse().ok();
    let mut layers: Vec<LayerId> = folder.owned()?.iter().filter_map(|owned| id_of(owned)).collect();
    match folder.spec()? {
        Some(spec) => {
            let paths = spec.machine.disks.iter().flat_map(|disk| &disk.layers);
            let paths = paths.chain(spec.snapshots.iter().flat_map(|snapshot| &snapshot.layers));
            layers.extend(paths.filter_map(|layer| id_of(layer.path.parent()?)));
        }
        // What its disk will stand on is in its maker's head.
        None => match folder.is_held() {
            Ok(false) | Err(HomeError::NoSuchVm { .. }) => {}
            Ok(true) => {
                return Err(Error::Invalid {
                    message: "a VM is being made at this moment: try again when that is done".to_owned(),
                });
            }
            Err(error) => return Err(error.into()),
        },
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_pruned_while_a_vm_is_being_made() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        let held = home.create(None).unwrap();
        let error = prune_images(&home, false).unwrap_err();
        assert!(error.to_string().contains("a VM is being made"), "{error}");
        held.remove().unwrap();
        assert_eq!(prune_images(&home, false).unwrap(), []);
    }

    #[test]
    fn a_layer_that_a_vm_has_recorded_as_its_own_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        let store = ImageStore::open(home.root()).unwrap();
        let new = crate::image::NewLayer { format: vmm_disk::Format::Raw, below: None, durable: false };
        let layer = store.layers().create(new, |path| std::fs::write(path, b"disk")).unwrap();
        let held = home.create(Some(&"box".parse().unwrap())).unwrap();
        held.will_own(&store.layers().folder_of(&layer.id)).unwrap();
        assert_eq!(layers_of(held.folder()).unwrap_err().code(), "invalid");
        // Whoever made the VM has died: it is cleared away, with its layer.
        drop(held);
        assert_eq!(prune_images(&home, false).unwrap(), []);
        assert_eq!(store.layers().list().unwrap(), []);
    }
}
