//! An image from what a machine has on its disk: its layers as they are, with the kernel of the image that it boots.

use std::slice;

use snafu::ensure;
use vmm_sys::FileLock;

use super::digest::Digest;
use super::error::{CancelledSnafu, NameInUseSnafu, NoLayerSnafu, ReservedSnafu, Result};
use super::image::Image;
use super::import::today;
use super::layers::{Layer, LayerId};
use super::progress::{Progress, Stage, Step};
use super::pull;
use super::record::FileRecord;
use super::reference::ImageRef;
use super::store::ImageStore;
use super::verify::{self, Thoroughness};
use super::version::ImageVersion;
use super::waiting::share_patiently;
use crate::arch::Arch;

/// What is to become an image.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// The image whose kernel it boots, in the way that it is booted.
    pub base: &'a Image,
    /// What the new one is called, and perhaps its release or version.
    pub target: &'a ImageRef,
    /// The topmost layer of its disk. Neither that nor one below it is written any more.
    pub top: &'a LayerId,
    /// The VM whose disk that is.
    pub vm: &'a str,
    /// The kernel of the store that boots it, if it is not the image's own.
    pub kernel: Option<&'a str>,
    /// The name may be in use, and then means the new one.
    pub replace: bool,
}

impl ImageStore {
    /// Keeps images from being removed for as long as what is returned lives. To be had by whoever keeps the layers of an
    /// image that is to be made ([`super::LayerStore::keep`]), until that is there: the last image of a layer lets it go.
    pub fn hold_images(&self, target: &ImageRef, progress: &dyn Progress) -> Result<FileLock> {
        share_patiently(&self.work_lock(), &target.to_string(), progress)
    }

    /// Whether an image can be made of this name. Gives those that have it, if they may be replaced.
    pub fn check_commit(&self, target: &ImageRef, arch: Arch, replace: bool) -> Result<Vec<Image>> {
        let name = target.name().as_str();
        ensure!(!self.catalog.has(name), ReservedSnafu { name });
        let mut there = self.list()?;
        there.retain(|image| {
            image.name() == target.name() && image.arch() == arch && target.fits(&image.version())
        });
        match there.last() {
            Some(image) if !replace => NameInUseSnafu { image: image.to_string() }.fail(),
            _ => Ok(there),
        }
    }

    /// Makes an image of a disk that is in the store. Its layers are not copied, but read, so that it is known from now on
    /// what they must be.
    pub fn commit(&self, commit: Commit<'_>, progress: &dyn Progress) -> Result<Image> {
        let Commit { base, target, top, vm, .. } = commit;
        let (name, label) = (target.name(), target.to_string());
        let place = self.images.join(name.as_str()).join("commit");
        let _locks = pull::lock_for_work(self, &place, &label, progress)?;
        let there = self.check_commit(target, base.arch(), commit.replace)?;
        self.verify(base, Thoroughness::Remembered)?;
        let layers: Vec<_> = self.layers.chain(top)?.iter().map(Layer::spec).collect();
        self.verify_disk(&layers)?;
        let sealed = self.seal_all(top, &label, progress)?;
        let Some(content) = sealed.last().and_then(|layer| layer.content.as_ref()) else {
            return NoLayerSnafu { id: top.as_str(), folder: self.layers.folder_of(top) }.fail();
        };
        let mut metadata = base.metadata.clone();
        metadata.name = name.clone();
        metadata.version = version(target, base.version(), content.sha256, &there);
        metadata.layer = top.clone();
        metadata.pulled_ms = Some(pull::now_ms());
        metadata.catalog = None;
        metadata.profile.kernel = commit.kernel.map(str::to_owned);
        let (size, sha256) = (content.size, content.sha256);
        metadata.origin.push(FileRecord { name: format!("the disk of the VM {vm}"), size, sha256 });
        metadata.vm = Some(vm.to_owned());
        let folder = self.folder_of(name.as_str(), metadata.version, metadata.arch);
        let _of_the_image = pull::lock_for_work(self, &folder, &label, progress)?;
        self.make_beside(base, metadata)
    }

    /// Records of each layer what it holds, where that is not recorded yet.
    fn seal_all(&self, top: &LayerId, label: &str, progress: &dyn Progress) -> Result<Vec<Layer>> {
        let mut sealed = Vec::new();
        for layer in self.layers.chain(top)? {
            if layer.content.is_some() {
                sealed.push(layer);
                continue;
            }
            if progress.cancelled() {
                return CancelledSnafu { image: label }.fail();
            }
            let total = std::fs::metadata(&layer.path).ok().map(|metadata| metadata.len());
            let tell = |done| progress.step(Step { stage: Stage::Verifying, subject: label, done, total });
            let layer = self.layers.seal(layer, tell)?;
            // Found good now, so that the first start need not read it again.
            if let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) {
                verify::verify(folder, slice::from_ref(content), Thoroughness::Remembered)?;
            }
            sealed.push(layer);
        }
        Ok(sealed)
    }
}

/// The version that is asked for, or one of the release that is asked for or the base's, of today; later than those that
/// have the name already.
fn version(target: &ImageRef, base: ImageVersion, digest: Digest, there: &[Image]) -> ImageVersion {
    let revision = u32::from_str_radix(&digest.to_string()[..7], 16).unwrap_or_default();
    let build = target.version_for(ImageVersion::from_parts(base.release(), today(), revision));
    match there.iter().map(Image::version).max() {
        Some(newest) if !target.is_exact() => build.later_than(newest),
        _ => build,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{IoSlice, IoSliceMut};

    use vmm_disk::{DiskImage, Format};

    use super::super::testing::{Fake, fake};
    use super::super::{ImageError, NewLayer, PullMode};
    use super::*;

    const ARCH: Arch = Arch::X86_64;

    fn pulled() -> (Fake, ImageStore, Image) {
        let home = Fake::new();
        let store = home.store();
        let image = store.pull(&fake(), ARCH, PullMode::IfMissing, &()).unwrap().image;
        (home, store, image)
    }

    /// A layer upon another one, with this byte at this place.
    fn layer_upon(store: &ImageStore, below: &LayerId, byte: u8, at: u64) -> LayerId {
        let size = disk_of(store, below).size();
        let new = NewLayer { format: Format::Qcow2, below: Some(below.clone()), durable: true };
        let layer = store.layers().create(new, |path| vmm_disk::create_overlay(path, size)).unwrap();
        let chain: Vec<_> = store.layers().chain(&layer.id).unwrap().iter().map(Layer::spec).collect();
        let disk = vmm_disk::open_chain(&chain, false).unwrap();
        disk.write(&[IoSlice::new(&[byte; 512])], at).unwrap();
        disk.flush().unwrap();
        layer.id
    }

    fn disk_of(store: &ImageStore, top: &LayerId) -> std::sync::Arc<dyn DiskImage> {
        let chain: Vec<_> = store.layers().chain(top).unwrap().iter().map(Layer::spec).collect();
        vmm_disk::open_chain(&chain, true).unwrap()
    }

    fn commit(store: &ImageStore, base: &Image, top: &LayerId, name: &str, replace: bool) -> Result<Image> {
        let target = &name.parse().unwrap();
        store.commit(Commit { base, target, top, vm: "box", kernel: None, replace }, &())
    }

    #[test]
    fn an_image_of_several_layers_is_cared_for_as_any_other() {
        let (home, store, base) = pulled();
        let middle = layer_upon(&store, base.layer(), 1, 100 << 10);
        let top = layer_upon(&store, &middle, 2, 110 << 10);
        let image = commit(&store, &base, &top, "mine:1.0", false).unwrap();
        assert_eq!(store.find(&"mine".parse().unwrap(), ARCH).unwrap(), image);
        assert_eq!(image.version().release(), [1, 0, 0]);
        assert_eq!((image.profile(), image.kernel_release()), (base.profile(), base.kernel_release()));
        // Listed and inspected.
        let summaries = store.summaries().unwrap();
        let summary = summaries.iter().find(|summary| summary.layer == top).unwrap();
        assert!(summary.bytes.unwrap() > store.size(&base).unwrap());
        let details = store.details(&image).unwrap();
        assert_eq!(details.layers.len(), 3);
        assert_eq!(details.origin.last().unwrap().name, "the disk of the VM box");
        // Verified: a byte of any layer that changed is noticed.
        store.verify(&image, Thoroughness::Full).unwrap();
        // Exported.
        let to = home.tools.path().join("disk.qcow2");
        store.export(&image, &to, &()).unwrap();
        let exported = vmm_disk::LayerSpec { path: to, format: Format::Qcow2 };
        let exported = vmm_disk::open_chain(&[exported], true).unwrap();
        let read = |disk: &dyn DiskImage, at| {
            let mut bytes = [0; 512];
            disk.read(&mut [IoSliceMut::new(&mut bytes)], at).unwrap();
            bytes[0]
        };
        assert_eq!([read(&*exported, 100 << 10), read(&*exported, 110 << 10)], [1, 2]);
        // Kept by prune, with all that it stands on, and when the image goes that it was made from.
        let all: BTreeSet<LayerId> =
            store.layers().list().unwrap().into_iter().map(|layer| layer.id).collect();
        assert_eq!(store.prune(&all, &BTreeSet::new(), false).unwrap(), []);
        store.remove_with_layers(&base, &BTreeSet::new()).unwrap();
        store.verify(&image, Thoroughness::Full).unwrap();
        // Damaged in the middle.
        let path = store.layers().layer(&middle).unwrap().path;
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let damaged = store.verify(&image, Thoroughness::Full).unwrap_err().to_string();
        // The layer is the VM's, too: no other image can be made of that.
        assert!(damaged.contains("): remove it with `vmm images rm mine:1.0.0-"), "{damaged}");
        // No image is made of what is damaged.
        let base = store.pull(&fake(), ARCH, PullMode::IfMissing, &()).unwrap().image;
        let refused = commit(&store, &base, &top, "other", false).unwrap_err();
        assert!(matches!(refused, ImageError::DamagedLayer { .. }), "{refused}");
        store.remove_with_layers(&base, &BTreeSet::new()).unwrap();
        // Removed, with all of its layers.
        store.remove_with_layers(&image, &BTreeSet::new()).unwrap();
        assert_eq!(store.layers().list().unwrap(), []);
    }

    #[test]
    fn a_name_in_use_is_replaced_only_where_that_is_asked_for() {
        let (_home, store, base) = pulled();
        let [one, two] = [1, 2].map(|byte| layer_upon(&store, base.layer(), byte, 0));
        let first = commit(&store, &base, &one, "mine", false).unwrap();
        let refused = commit(&store, &base, &two, "mine", false).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("there is an image {first} already: replace it with --force")
        );
        assert!(commit(&store, &base, &two, "fake", true).is_err(), "a name of the catalog");
        // Whatever its digest is, the name means the newer one, also when it is done again and again.
        for top in [&two, &one, &two] {
            let image = commit(&store, &base, top, "mine", true).unwrap();
            assert_eq!(store.find(&"mine".parse().unwrap(), ARCH).unwrap(), image);
            assert_eq!(image.layer(), top);
        }
        // Another release of the name is another image.
        let other = commit(&store, &base, &one, "mine:9", false).unwrap();
        assert_eq!(other.version().release(), [9, 0, 0]);
        // An exact version is replaced as it is.
        let exact = "mine:9.0.0-20260101-0000001";
        commit(&store, &base, &one, exact, false).unwrap();
        let image = commit(&store, &base, &two, exact, true).unwrap();
        assert_eq!(image.to_string(), exact);
        assert_eq!(store.find(&exact.parse().unwrap(), ARCH).unwrap().layer(), &two);
    }

    #[test]
    fn a_layer_is_released_when_the_last_image_of_it_goes_and_a_machine_stays() {
        let (_home, store, base) = pulled();
        let top = layer_upon(&store, base.layer(), 1, 0);
        store.layers().keep(&top).unwrap();
        let image = commit(&store, &base, &top, "mine", false).unwrap();
        let tagged = store.tag(&image, &"other".parse().unwrap()).unwrap();
        let machines = BTreeSet::from([top.clone()]);
        let is_kept = || store.layers().folder_of(&top).join(crate::home::KEPT).exists();
        store.remove_with_layers(&image, &machines).unwrap();
        assert!(is_kept());
        store.remove_with_layers(&tagged, &machines).unwrap();
        assert!(!is_kept());
    }
}
