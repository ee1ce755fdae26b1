//! An image of what is on a VM's disk. They share it: nothing is copied.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::live::LiveVm;
use super::{has_untouched_top, layer_id, layer_upon, root, spec_of, virtual_size};
use crate::home::{HeldVm, Home, VmFolder, VmSpec};
use crate::image::{Commit, Image, ImageRef, ImageStore, LayerId, Progress};
use crate::sandbox::error::Error;
use crate::sandbox::images::{image_users, remove_image};
use crate::sandbox::{Sandbox, hold};

/// An image that was made from a VM.
#[derive(Debug)]
pub struct Committed {
    /// It.
    pub image: Image,
    /// How long the guest stood still, where it runs.
    pub frozen: Option<Duration>,
    /// What had the name before, and is gone: one that a VM boots from stays, by its exact name.
    pub replaced: Vec<Image>,
}

impl Sandbox {
    /// Makes an image of what is on its disk, with the kernel, the modules and the boot profile of the image that it was
    /// made from. Its layers are shared, and read once. Disks of the user's beside the root are no part of it.
    ///
    /// If it runs, its guest writes back what it has and stands still for a moment. A name that is in use is an error,
    /// unless it is to be replaced.
    pub fn commit(
        &self,
        target: &ImageRef,
        replace: bool,
        progress: &dyn Progress,
    ) -> Result<Committed, Error> {
        let home = self.link.folder().home();
        let store = ImageStore::open(home.root())?;
        let (base, top, frozen) = match hold(self.link.folder(), self.name()) {
            Ok(held) => {
                let (base, top) = settle(&store, &held, target, replace)?;
                (base, top, None)
            }
            Err(Error::AlreadyRunning { .. }) => {
                let live = LiveVm::of(self)?;
                let base = base_of(&store, &live.spec, target, replace)?;
                live.see_on_disk(&store)?;
                let frozen = live.add_layer(&store, None)?;
                (base, keep(self.link.folder(), &store, top_of(&live.spec)?)?, Some(frozen))
            }
            Err(error) => return Err(error),
        };
        let there = store.check_commit(target, base.arch(), replace)?;
        let origin = format!("the disk of the VM {}", self.name());
        let commit = Commit { base: &base, target, top: &top, origin: &origin, replace };
        let image = store.commit(commit, progress)?;
        // Another image that stood on the same layers may have gone meanwhile, and have let go of them.
        let top = keep(self.link.folder(), &store, top)?;
        debug_assert_eq!(top, *image.layer());
        let replaced = there.into_iter().filter(|old| old.folder() != image.folder());
        let replaced = replaced.filter(|old| is_removed(home, old)).collect();
        Ok(Committed { image, frozen, replaced })
    }
}

/// Has a VM that does not run go on with a layer of its own, if it wrote to the one that it has.
fn settle(
    store: &ImageStore,
    held: &HeldVm,
    target: &ImageRef,
    replace: bool,
) -> Result<(Image, LayerId), Error> {
    let mut spec = spec_of(held)?;
    let base = base_of(store, &spec, target, replace)?;
    let mut layers = root(&spec)?.layers.clone();
    let size = virtual_size(&layers)?;
    let below = &layers[..layers.len().saturating_sub(1)];
    if has_untouched_top(&layers)? && virtual_size(below)? == size {
        layers.pop();
    } else {
        spec.machine.disks[0].layers = layer_upon(store, held, &layers, size)?;
        held.write_spec(&spec)?;
    }
    let top = layers.last().and_then(|layer| layer_id(&layer.path)).ok_or_else(no_layer)?;
    Ok((base, keep(held.folder(), store, top)?))
}

/// The image whose kernel a VM boots, if an image of this name can be made of the VM.
fn base_of(store: &ImageStore, spec: &VmSpec, target: &ImageRef, replace: bool) -> Result<Image, Error> {
    if spec.own_kernel {
        let message = format!(
            "{} boots a kernel of its own, which an image does not take along: only what boots its image's kernel can \
             become an image",
            spec.display_name()
        );
        return Err(Error::Invalid { message });
    }
    let name = spec.display_name();
    if spec.configuration.root.overlay.is_some() {
        let message = format!(
            "the root of {name} is read-only: what it wrote lies over it, and an image would not show it"
        );
        return Err(Error::Invalid { message });
    }
    // The base may be a file of the user's, whose contents are known; what the VM writes may not.
    let own = root(spec)?.layers.iter().skip(1);
    if let Some(file) = own.into_iter().find_map(|layer| fs::read_link(&layer.path).ok()) {
        let file = file.display();
        let message = format!(
            "the disk of {name} lies in {file}, which is no image's: vmm flatten {name} takes it into the home"
        );
        return Err(Error::Invalid { message });
    }
    store.check_commit(target, spec.machine.arch, replace)?;
    Ok(store.find_for(&spec.image_reference.parse()?, spec.machine.arch)?.0)
}

fn top_of(spec: &VmSpec) -> Result<LayerId, Error> {
    root(spec)?.layers.last().and_then(|layer| layer_id(&layer.path)).ok_or_else(no_layer)
}

fn no_layer() -> Error {
    Error::Invalid { message: "this VM's disk is none of the image store's".to_owned() }
}

/// Keeps a layer, and those below it that this VM owns, from going with it and with others that own them. The rest is an
/// image's already.
fn keep(folder: &VmFolder, store: &ImageStore, top: LayerId) -> Result<LayerId, Error> {
    // Nobody gives up a layer meanwhile: either it is kept, or it is gone and that is said.
    let _owners = folder.home().lock_owners()?;
    let owned = folder.owned()?;
    for layer in store.layers().chain(&top)? {
        if owned.iter().any(|owned| owned.file_name() == layer.path.parent().and_then(Path::file_name)) {
            store.layers().keep(&layer.id)?;
        } else if !layer.is_sealed() {
            // It was removed meanwhile.
            return Err(
                crate::home::HomeError::NoSuchVm { wanted: folder.id().to_string(), nearest: None }.into()
            );
        }
    }
    Ok(top)
}

/// Removes an image whose name another one has now, if no VM boots from it.
fn is_removed(home: &Home, image: &Image) -> bool {
    if image_users(home, image).is_ok_and(|users| users.is_empty()) {
        match remove_image(home, image) {
            Ok(_) => return true,
            Err(error) => tracing::warn!(%image, "the image that was replaced stays: {error}"),
        }
    }
    false
}
