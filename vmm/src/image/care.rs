//! What a user does with images beside pulling them: other names for them, copies to take along, sizes, and making room.

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use snafu::{OptionExt, ResultExt, ensure};
use vmm_disk::{Format, LayerSpec};
use vmm_sys::FileLock;

use super::digest::Digest;
use super::error::{
    BusySnafu, CancelledSnafu, DiskSnafu, ExistsSnafu, NoLayerSnafu, ReservedSnafu, Result, StorageSnafu,
    UnknownSnafu,
};
use super::files;
use super::image::Image;
use super::import::is_reserved;
use super::index::Summary;
use super::layers::{Layer, LayerId};
use super::profile::BootProfile;
use super::progress::{Progress, Stage, Step};
use super::pull;
use super::record::FileRecord;
use super::reference::{ImageName, ImageRef};
use super::store::ImageStore;
use super::verify::Thoroughness;
use super::version::ImageVersion;
use crate::arch::Arch;

/// How much is copied at once, and what of that is left out where it is zeroes: a cluster of the copy.
const STRETCH: usize = 2 << 20;
const CLUSTER: usize = 64 << 10;

/// How large an image is. Images share layers, and each counts them as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The lengths of its files and layers.
    pub apparent: u64,
    /// What those take of the host's disk, with the initial file systems that were made for it.
    pub real: u64,
    /// The size of its disk, as a guest sees it.
    pub disk: u64,
}

/// All that is known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// Its name.
    pub name: ImageName,
    /// Its version.
    pub version: ImageVersion,
    /// The machines that it is for.
    pub arch: Arch,
    /// What `uname -r` says in the guest.
    pub kernel_release: String,
    /// Its folder.
    pub folder: PathBuf,
    /// How large it is.
    pub sizes: Sizes,
    /// How it wants to be booted.
    pub profile: BootProfile,
    /// How long ago it was pulled, where that is known.
    #[serde(rename = "pulled_ago_s", serialize_with = "as_seconds")]
    pub pulled: Option<Duration>,
    /// The layers of its disk, from the base up.
    pub layers: Vec<LayerDetails>,
    /// What it was made from.
    pub origin: Vec<Origin>,
    /// What became of the script that customises it.
    pub customisation: CustomisationState,
    /// The version that `/etc/vmm-image` on its disk says.
    pub system_version: Option<ImageVersion>,
    /// Whether the catalog has another entry for this version than that which made it.
    pub drifted: Option<bool>,
}

/// What became of the script that customises an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomisationState {
    /// There is none.
    None,
    /// It runs at the image's first start.
    Pending,
    /// It has run, and its result is a layer.
    Done,
}

/// A layer of an image's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerDetails {
    /// Its name.
    pub id: LayerId,
    /// Its data file.
    pub path: PathBuf,
    /// The format of that.
    pub format: Format,
    /// What it takes of the host's disk.
    pub bytes: u64,
}

/// Something that an image was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// What it was, and where it was.
    pub name: String,
    /// Its length.
    pub size: u64,
    /// The digest of its contents.
    pub sha256: Digest,
}

fn as_seconds<S: Serializer>(span: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    span.map(|span| span.as_secs()).serialize(serializer)
}

/// Something that was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What it was: `image`, `layer`, `download`, `remains`.
    pub what: &'static str,
    /// Where it was.
    pub path: PathBuf,
    /// What it took of the host's disk.
    pub bytes: u64,
}

impl ImageStore {
    /// How large an image is.
    pub fn sizes(&self, image: &Image) -> Result<Sizes> {
        self.sizes_of(&image.folder, image.layer(), self.size(image)?)
    }

    /// How large the image is that a line of a list is about.
    pub fn sizes_of_summary(&self, summary: &Summary) -> Result<Sizes> {
        let Summary { name, version, arch, layer, bytes, .. } = summary;
        let apparent = bytes.unwrap_or_default();
        self.sizes_of(&self.folder_of(name.as_str(), *version, *arch), layer, apparent)
    }

    fn sizes_of(&self, folder: &Path, top: &LayerId, apparent: u64) -> Result<Sizes> {
        let layers = self.layers.chain(top)?;
        let of_layers = layers.iter().filter_map(|layer| layer.path.parent()).map(files::allocated);
        let real = files::allocated(folder) + of_layers.sum::<u64>();
        let Some(Layer { path, format, .. }) = layers.last() else {
            return NoLayerSnafu { id: top.as_str(), folder: self.layers.folder_of(top) }.fail();
        };
        let info = vmm_disk::inspect(path, *format).map_err(Into::into).context(DiskSnafu { path })?;
        Ok(Sizes { apparent, real, disk: info.virtual_size })
    }

    /// All that is known of an image.
    pub fn details(&self, image: &Image) -> Result<ImageDetails> {
        let layers =
            self.layers.chain(image.layer())?.into_iter().map(|Layer { id, path, format, .. }| {
                let bytes = files::allocated(&path);
                LayerDetails { id, path, format, bytes }
            });
        let origin = image.metadata.origin.iter().cloned();
        let ago = |pulled_ms| Duration::from_millis(pull::now_ms().saturating_sub(pulled_ms));
        Ok(ImageDetails {
            name: image.name().clone(),
            version: image.version(),
            arch: image.arch(),
            kernel_release: image.kernel_release().to_owned(),
            folder: image.folder.clone(),
            sizes: self.sizes(image)?,
            profile: image.profile().clone(),
            pulled: image.metadata.pulled_ms.map(ago),
            layers: layers.collect(),
            origin: origin.map(|FileRecord { name, size, sha256 }| Origin { name, size, sha256 }).collect(),
            customisation: match (&image.metadata.customise, image.metadata.customised) {
                (Some(_), _) => CustomisationState::Pending,
                (None, Some(_)) => CustomisationState::Done,
                (None, None) => CustomisationState::None,
            },
            system_version: image.metadata.system.filter(|_| !image.is_pending()),
            drifted: self.has_drifted(image),
        })
    }

    /// Whether the catalog's entry is another one than that which made an image, though the version is the same. `None`:
    /// the catalog has no such entry, or the image does not know.
    pub fn has_drifted(&self, image: &Image) -> Option<bool> {
        let entry = self.catalog.entry(image.name().as_str(), image.version(), image.arch())?;
        Some(entry.digest() != image.metadata.catalog?)
    }

    /// Gives an image another name, and perhaps a version of its own, beside those that it has. What the name meant
    /// before is replaced. The files are shared.
    pub fn tag(&self, image: &Image, target: &ImageRef) -> Result<Image> {
        let name: &ImageName = target.name();
        let reserved = self.catalog.has(name.as_str()) || is_reserved(name.as_str());
        ensure!(!reserved, ReservedSnafu { name: name.as_str() });
        self.verify(image, Thoroughness::Remembered)?;
        let version = target.version_for(image.version());
        let folder = self.folder_of(name.as_str(), version, image.arch());
        if folder == image.folder {
            return Ok(image.clone());
        }
        let _locks = pull::lock_for_work(self, &folder, &format!("{name}:{version}"), &())?;
        // What was looked at before the lock may have been replaced or removed since.
        let missing =
            || UnknownSnafu { image: image.reference(), arch: image.arch(), known: self.known(image.arch()) };
        let image = self.load(&image.folder)?.with_context(missing)?;
        self.verify(&image, Thoroughness::Remembered)?;
        let mut metadata = image.metadata.clone();
        (metadata.name, metadata.version) = (name.clone(), version);
        // What the name means is decided by who came last.
        metadata.pulled_ms = Some(pull::now_ms());
        self.make_beside(&image, metadata)
    }

    /// Writes an image's disk into one qcow2 file that needs no other. A file that is there is left as it is.
    pub fn export(&self, image: &Image, to: &Path, progress: &dyn Progress) -> Result<()> {
        ensure!(!to.exists(), ExistsSnafu { path: to });
        let layers = self.verify(image, Thoroughness::Remembered)?;
        let layers: Vec<LayerSpec> = layers.iter().map(Layer::spec).collect();
        let partial = files::partial_of(to);
        files::remove_file(&partial)?;
        let copied = copy(&layers, &partial, image, progress).and_then(|()| {
            // Nobody's file is replaced, not even one that came meanwhile.
            files::rename_new(&partial, to)
        });
        if copied.is_err() {
            // The first error is the one to tell.
            let _ = files::remove_file(&partial);
        }
        copied
    }

    /// The layers that images stand on, perhaps without one of these. An image that cannot be read is an error: what it stands on is not known.
    fn references(&self, without: Option<&Path>) -> Result<BTreeSet<LayerId>> {
        let folders = self.image_folders()?.into_iter().map(|(folder, _, _)| folder);
        let images =
            folders.filter(|folder| Some(folder.as_path()) != without).map(|folder| self.load(&folder));
        let layers = images.filter_map(|image| image.transpose()).map(|image| Ok(image?.layer().clone()));
        layers.collect()
    }

    /// Removes downloads, what dead pulls left, and layers that neither an image nor one of `others` needs, or only
    /// tells of it.
    ///
    /// `others` are the layers of all machines, and `there` those that there were before these were looked for: a
    /// machine that runs may have got another since. Whoever calls this makes sure that no machine is being made
    /// meanwhile. That no image is, is seen to here.
    pub fn prune(
        &self,
        there: &BTreeSet<LayerId>,
        others: &BTreeSet<LayerId>,
        dry_run: bool,
    ) -> Result<Vec<Removed>> {
        let _alone = self.be_alone()?;
        let mut references = self.references(None)?;
        references.extend(others.iter().cloned());
        let mut removed = Vec::new();
        let mut add = |what, found: Vec<(PathBuf, u64)>| {
            removed.extend(found.into_iter().map(|(path, bytes)| Removed { what, path, bytes }));
        };
        add("download", self.downloads.prune(dry_run)?);
        add("remains", pull::prune_remains(self, dry_run)?);
        add("remains", self.layers.prune_partials(dry_run)?);
        let mut layers = self.layers.unreferenced(&references)?;
        layers.retain(|id| there.contains(id));
        add("layer", self.remove_layers(&layers, dry_run)?);
        Ok(removed)
    }

    /// What is told of the removal of an image.
    pub fn removed(&self, image: &Image) -> Removed {
        Removed { what: "image", path: image.folder.clone(), bytes: files::allocated(&image.folder) }
    }

    /// Removes an image, and those of its layers that neither another image nor one of `others` needs. The caller's
    /// part is that of [`ImageStore::prune`], and that no machine boots from the image.
    pub fn remove_with_layers(&self, image: &Image, others: &BTreeSet<LayerId>) -> Result<Vec<Removed>> {
        let _alone = self.be_alone()?;
        let told = self.removed(image);
        let chain = self.layers.chain(image.layer()).unwrap_or_default();
        // What cannot be known ends it before anything is gone.
        let mut references = self.references(Some(&image.folder))?;
        let of_no_image = self.layers.unreferenced(&references)?;
        references.extend(others.iter().cloned());
        self.remove(image)?;
        // Those of them that machines wrote go with these from now on.
        for layer in chain.iter().filter(|layer| of_no_image.contains(&layer.id)) {
            self.layers.release(&layer.id)?;
        }
        let mut removed = vec![told];
        let mut layers = self.layers.unreferenced(&references)?;
        layers.retain(|id| chain.iter().any(|layer| layer.id == *id));
        let layers = self.remove_layers(&layers, false)?;
        removed.extend(layers.into_iter().map(|(path, bytes)| Removed { what: "layer", path, bytes }));
        Ok(removed)
    }

    /// Removes an image whose record cannot be read, by its exact name. Which layers were its own is not known: they are
    /// left to [`ImageStore::prune`]. The caller's part is that no machine boots from the image.
    pub fn remove_unreadable(&self, image: &ImageRef, arch: Arch) -> Result<Vec<Removed>> {
        let _alone = self.be_alone()?;
        let known = || UnknownSnafu { image: image.clone(), arch, known: self.known(arch) };
        let version = image.exact_version().with_context(known)?;
        let folder = self.folder_of(image.name().as_str(), version, arch);
        ensure!(folder.is_dir(), known());
        let removed = Removed { what: "image", bytes: files::allocated(&folder), path: folder.clone() };
        self.remove_folder(&folder)?;
        Ok(vec![removed])
    }

    fn remove_layers(&self, layers: &[LayerId], dry_run: bool) -> Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        for id in layers {
            let path = self.layers.folder_of(id);
            found.push((path.clone(), files::allocated(&path)));
            if !dry_run {
                self.layers.remove(id)?;
            }
        }
        Ok(found)
    }

    /// Keeps others from making images.
    fn be_alone(&self) -> Result<FileLock> {
        let path = self.work_lock();
        FileLock::try_exclusive(&path).context(StorageSnafu { action: "lock", path })?.context(BusySnafu)
    }
}

/// Copies a disk of layers into a new qcow2 file. What is zeroes takes no space in it.
fn copy(layers: &[LayerSpec], to: &Path, image: &Image, progress: &dyn Progress) -> Result<()> {
    let disk = |path: &Path| DiskSnafu { path: path.to_owned() };
    let top = layers.last().map_or(Path::new(""), |layer| layer.path.as_path());
    let from = vmm_disk::open_chain(layers, true).map_err(Into::into).context(disk(top))?;
    let size = from.size();
    vmm_disk::create_overlay(to, size).map_err(Into::into).context(disk(to))?;
    let target = LayerSpec { path: to.to_owned(), format: Format::Qcow2 };
    let copy = vmm_disk::open_chain(&[target], false).map_err(Into::into).context(disk(to))?;
    let mut buffer = vec![0; STRETCH];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap_or(STRETCH).min(STRETCH);
        let stretch = &mut buffer[..length];
        from.read(&mut [IoSliceMut::new(stretch)], at).map_err(Into::into).context(disk(top))?;
        for (number, cluster) in stretch.chunks(CLUSTER).enumerate() {
            if cluster.iter().any(|byte| *byte != 0) {
                let place = at + (number * CLUSTER) as u64;
                copy.write(&[IoSlice::new(cluster)], place).map_err(Into::into).context(disk(to))?;
            }
        }
        at += length as u64;
        let subject = &image.to_string();
        progress.step(Step { stage: Stage::Exporting, subject, done: at, total: Some(size) });
        if progress.cancelled() {
            return CancelledSnafu { image: image.to_string() }.fail();
        }
    }
    copy.flush().map_err(Into::into).context(disk(to))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::image::METADATA;
    use super::super::testing::{Fake, fake, root_file_system};
    use super::super::{ImageError, PullMode};
    use super::*;

    fn pulled() -> (Fake, ImageStore, Image) {
        let home = Fake::new();
        let store = home.store();
        let image = store.pull(&fake(), Arch::X86_64, PullMode::IfMissing, &()).unwrap().image;
        (home, store, image)
    }

    #[test]
    fn an_image_has_another_name_beside_its_own() {
        let (_home, store, image) = pulled();
        let tagged = store.tag(&image, &"mine".parse().unwrap()).unwrap();
        assert_eq!(tagged.to_string(), "mine:1.2.3-20260102-abcdef0");
        let again = store.tag(&image, &"mine:2.0".parse().unwrap()).unwrap();
        assert_eq!(again.to_string(), "mine:2.0.0-20260102-abcdef0");
        assert_eq!(store.find(&"mine".parse().unwrap(), Arch::X86_64).unwrap(), again);
        assert_eq!(store.find(&"mine:1".parse().unwrap(), Arch::X86_64).unwrap(), tagged);
        store.verify(&tagged, Thoroughness::Full).unwrap();
        // It lives on when the first name goes.
        store.remove_with_layers(&image, &BTreeSet::new()).unwrap();
        store.verify(&tagged, Thoroughness::Full).unwrap();
        let error = store.tag(&tagged, &"fake:2".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "fake is a name of the catalog: choose another one");
    }

    #[test]
    fn of_one_day_the_image_that_was_made_last_is_meant() {
        let (_home, store, image) = pulled();
        for version in ["1.0.0-20260102-fffffff", "1.0.0-20260102-0000001"] {
            let tagged = store.tag(&image, &format!("mine:{version}").parse().unwrap()).unwrap();
            assert_eq!(store.find(&"mine".parse().unwrap(), Arch::X86_64).unwrap(), tagged);
            // Times are recorded in milliseconds.
            let now = pull::now_ms();
            while pull::now_ms() == now {}
        }
    }

    #[test]
    fn an_exported_disk_needs_no_other_file() {
        let (home, store, image) = pulled();
        let to = home.tools.path().join("disk.qcow2");
        store.export(&image, &to, &()).unwrap();
        let layer = LayerSpec { path: to.clone(), format: Format::Qcow2 };
        let disk = vmm_disk::open_chain(&[layer], true).unwrap();
        let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
        disk.read(&mut [IoSliceMut::new(&mut bytes)], 0).unwrap();
        assert_eq!(bytes, root_file_system());
        assert!(matches!(store.export(&image, &to, &()), Err(ImageError::Exists { .. })));
    }

    #[test]
    fn what_is_needed_stays_and_what_is_not_goes() {
        let (home, store, image) = pulled();
        let layer = image.layer().clone();
        let none = BTreeSet::new();
        let all = BTreeSet::from([layer.clone()]);
        // Given remains of every kind.
        let remains = home.home.path().join("images/other/1.0.0-20260101-0000000-arm64.partial");
        let begun = store.layers().folder_of(&layer).with_extension("partial");
        let (download, _) = store.downloads.places("x").unwrap();
        for folder in [&remains, &begun] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(&download, [1; 5000]).unwrap();
        // Then they are told, and go, and the image stays.
        let told = store.prune(&all, &none, true).unwrap();
        assert!(remains.exists() && begun.exists() && download.exists());
        assert_eq!(store.prune(&all, &none, false).unwrap(), told);
        assert_eq!(told.iter().map(|gone| gone.what).collect::<Vec<_>>(), ["download", "remains", "remains"]);
        assert!(!remains.exists() && !begun.exists() && !download.exists());
        store.verify(&image, Thoroughness::Full).unwrap();
        // When the image goes, its layer stays while a machine needs it.
        let gone = store.remove_with_layers(&image, &BTreeSet::from([layer.clone()])).unwrap();
        assert_eq!(gone.iter().map(|gone| gone.what).collect::<Vec<_>>(), ["image"]);
        assert_eq!(store.prune(&all, &BTreeSet::from([layer.clone()]), false).unwrap(), []);
        assert_eq!(store.prune(&none, &none, false).unwrap(), [], "it came after the others were looked at");
        let gone = store.prune(&all, &none, false).unwrap();
        assert_eq!((gone[0].what, store.layers().list().unwrap()), ("layer", vec![]));
    }

    #[test]
    fn nothing_is_pruned_while_an_image_is_made_or_cannot_be_read() {
        let (_home, store, image) = pulled();
        let none = BTreeSet::new();
        let shared = FileLock::try_shared(&store.work_lock()).unwrap().unwrap();
        assert!(matches!(store.prune(&none, &none, false), Err(ImageError::Busy)));
        drop(shared);
        fs::write(image.folder().join(METADATA), b"{").unwrap();
        assert!(matches!(store.prune(&none, &none, false), Err(ImageError::Damaged { .. })));
        assert_eq!(store.layers().list().unwrap().len(), 1);
    }

    #[test]
    fn an_image_that_cannot_be_read_is_in_the_way_until_it_is_removed_by_its_name() {
        let (_home, store, image) = pulled();
        let none = BTreeSet::new();
        let tagged = store.tag(&image, &"mine".parse().unwrap()).unwrap();
        fs::write(tagged.folder().join(METADATA), b"{").unwrap();
        // Given another one, its removal removes nothing, and says what to do.
        let error = store.remove_with_layers(&image, &none).unwrap_err();
        assert!(error.to_string().contains(&format!("`vmm images rm {tagged}`")), "{error}");
        assert!(image.folder().exists());
        assert_eq!(store.names().unwrap().len(), 2);
        // Then it goes, and its layer stays.
        assert!(store.remove_unreadable(&"mine".parse().unwrap(), Arch::X86_64).is_err(), "not exact");
        let gone = store.remove_unreadable(&tagged.reference(), Arch::X86_64).unwrap();
        assert_eq!(gone[0].path, tagged.folder());
        assert!(!tagged.folder().exists());
        store.verify(&image, Thoroughness::Full).unwrap();
        // One that is damaged itself is no hindrance, nor is a folder that is no image.
        fs::create_dir_all(tagged.folder().with_file_name("junk")).unwrap();
        assert_eq!(store.remove_with_layers(&image, &none).unwrap().len(), 2);
    }

    #[test]
    fn an_entry_that_changed_under_the_same_version_is_noticed() {
        let (_home, store, mut image) = pulled();
        assert_eq!(store.has_drifted(&image), Some(false));
        image.metadata.catalog = Some(super::super::Digest::of(b"another entry"));
        assert_eq!(store.has_drifted(&image), Some(true));
        image.metadata.catalog = None;
        assert_eq!(store.has_drifted(&image), None);
    }
}
