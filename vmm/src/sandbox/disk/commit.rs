//! An image of what is on a VM's disk. They share it: nothing is copied.

use std::time::Duration;

use vmm_disk::LayerSpec;

use super::live::LiveVm;
use super::{is_own, layer_id, outside, root, settle, spec_of};
use crate::home::{Home, VmFolder, VmSpec};
use crate::image::{Commit, Image, ImageRef, ImageStore, LayerId, Progress, Thoroughness};
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
        // From before its layers are kept until the image is there: another image that stands on them, and went meanwhile,
        // would let go of them.
        let images_stay = store.hold_images(target, progress)?;
        let (base, top, frozen, kernel) = match hold(self.link.folder(), self.name()) {
            Ok(held) => {
                let mut spec = spec_of(&held)?;
                let base = base_of(&store, self.link.folder(), &spec, target, replace)?;
                let layers = settle(&store, &held, &mut spec)?;
                held.write_spec(&spec)?;
                let top = top_of(&layers)?;
                keep(self.link.folder(), &store, &top)?;
                (base, top, None, spec.stored_kernel)
            }
            Err(Error::AlreadyRunning { .. }) => {
                let live = LiveVm::of(self)?;
                let base = base_of(&store, self.link.folder(), &live.spec, target, replace)?;
                live.see_on_disk(&store)?;
                let frozen = live.add_layer(&store, None)?;
                let top = top_of(live.layers()?)?;
                keep(self.link.folder(), &store, &top)?;
                (base, top, Some(frozen), live.spec.stored_kernel.clone())
            }
            Err(error) => return Err(error),
        };
        let there = store.check_commit(target, base.arch(), replace)?;
        let commit =
            Commit { base: &base, target, top: &top, vm: self.name(), kernel: kernel.as_deref(), replace };
        let image = store.commit(commit, progress)?;
        drop(images_stay);
        let replaced = there.into_iter().filter(|old| old.folder() != image.folder());
        let replaced = replaced.filter(|old| is_removed(home, old)).collect();
        Ok(Committed { image, frozen, replaced })
    }
}

/// The image whose kernel a VM boots, if an image of this name can be made of the VM.
///
/// What can be found wrong is found here, before a guest stands still and a layer is added.
fn base_of(
    store: &ImageStore,
    folder: &VmFolder,
    spec: &VmSpec,
    target: &ImageRef,
    replace: bool,
) -> Result<Image, Error> {
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
    let own = folder.owned()?;
    if let Some(file) = own.iter().find_map(|layer| outside::file_of(layer)) {
        let file = file.display();
        let message = format!(
            "the disk of {name} lies in {file}, where its user writes it, too: only a VM without an overlay of its \
             user's (--overlay) can become an image"
        );
        return Err(Error::Invalid { message });
    }
    store.check_commit(target, spec.machine.arch, replace)?;
    let base = store.find_for(&spec.image_reference.parse()?, spec.machine.arch)?.0;
    store.verify(&base, Thoroughness::Remembered)?;
    store.verify_disk(&root(spec)?.layers)?;
    Ok(base)
}

fn top_of(layers: &[LayerSpec]) -> Result<LayerId, Error> {
    layers.last().and_then(|layer| layer_id(&layer.path)).ok_or_else(no_layer)
}

fn no_layer() -> Error {
    Error::Invalid { message: "this VM's disk is none of the image store's".to_owned() }
}

/// Keeps a layer, and those below it that this VM owns, from going with it and with others that own them. The rest is an
/// image's already.
fn keep(folder: &VmFolder, store: &ImageStore, top: &LayerId) -> Result<(), Error> {
    // Nobody gives up a layer meanwhile: either it is kept, or it is gone and that is said.
    let _owners = folder.home().lock_owners()?;
    let owned = folder.owned()?;
    for layer in store.layers().chain(top)? {
        if is_own(&owned, &layer.path) {
            store.layers().keep(&layer.id)?;
        } else if !layer.is_sealed() {
            // It was removed meanwhile.
            return Err(
                crate::home::HomeError::NoSuchVm { wanted: folder.id().to_string(), nearest: None }.into()
            );
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::tests::{commit_and_write, prepare, vm};
    use super::*;
    use crate::image::ImageError;
    use crate::sandbox::prune_images;

    fn image(home: &Home, name: &str) -> Image {
        let arch = crate::arch::Arch::host().unwrap();
        ImageStore::open(home.root()).unwrap().find(&name.parse().unwrap(), arch).unwrap()
    }

    #[test]
    fn an_image_on_the_same_layers_stays_while_another_one_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        prepare(&home);
        commit_and_write(&home, "first");
        let first = image(&home, "first");
        let layers = || root(&home.find("box").unwrap().spec().unwrap().unwrap()).unwrap().layers.len();
        let before = layers();
        // The commit comes as far as to where it keeps its layers, and waits.
        let owners = home.lock_owners().unwrap();
        std::thread::scope(|scope| {
            let committing =
                scope.spawn(|| vm(&home).commit(&"second".parse().unwrap(), false, &()).unwrap());
            let deadline = Instant::now() + Duration::from_secs(60);
            while layers() == before {
                assert!(Instant::now() < deadline && !committing.is_finished());
                std::thread::yield_now();
            }
            let refused = [remove_image(&home, &first).map(drop), prune_images(&home, false).map(drop)];
            drop(owners);
            committing.join().unwrap();
            for refused in refused {
                let error = refused.unwrap_err();
                let is_busy =
                    matches!(&error, Error::Image { source } if matches!(**source, ImageError::Busy));
                assert!(is_busy, "{error:?}");
            }
        });
        // What it stands on is its own from then on, whoever else goes.
        remove_image(&home, &first).unwrap();
        vm(&home).remove(false).unwrap();
        prune_images(&home, false).unwrap();
        let store = ImageStore::open(home.root()).unwrap();
        assert_eq!(store.verify(&image(&home, "second"), Thoroughness::Full).unwrap().len(), 5);
    }
}
