//! The last transform of an image: a script that runs once in a machine of the image's own, and whose result is a layer
//! over what was fetched.
//!
//! This module knows no machine. It gives whoever can start one a disk to let the script write to ([`Customising`]), and
//! makes the image that stands on the result. Until then the image is pending: it is complete in all but this, and
//! whoever starts a machine from it customises it first. So however this ends, nothing half-made is taken for whole.

use std::path::{Path, PathBuf};
use std::slice;

use snafu::{OptionExt, ResultExt, ensure};
use vmm_disk::{Format, LayerSpec};
use vmm_sys::FileLock;

use super::digest::Digest;
use super::error::{
    CustomiseSnafu, DiskSnafu, IncompatibleSystemSnafu, MakeLayerSnafu, Result, StorageSnafu,
};
use super::files;
use super::image::{Image, Metadata};
use super::layers::Layer;
use super::progress::{Progress, Stage, Step};
use super::pull;
use super::record::FileRecord;
use super::root::RootFileSystem;
use super::share;
use super::store::ImageStore;
use super::verify::{self, Thoroughness};
use super::version::{Compatibility, ImageVersion};

/// Where a customised disk says which version it is of.
pub(super) const VERSION_FILE: &str = "/etc/vmm-image";

/// Longer version files are none.
const LONGEST_VERSION: u64 = 1 << 10;

/// What every customisation ends with. The version is the first argument.
const WRITE_VERSION: &str = "umask 022\nprintf '%s\\n' \"$1\" >/etc/vmm-image\n";

/// What becomes of an image that is to be customised.
#[derive(Debug)]
pub enum Customisation {
    /// There is nothing to do any more: this is the image.
    Done(Box<Image>),
    /// The script is yet to run.
    Due(Box<Customising>),
}

/// An image that is being customised: nobody else does so meanwhile.
#[derive(Debug)]
pub struct Customising {
    store: ImageStore,
    image: Image,
    /// What is here goes unless it is published.
    partial: PathBuf,
    script: String,
    version: ImageVersion,
    _locks: [FileLock; 2],
}

impl ImageStore {
    /// Begins to customise an image, if it is pending. What was made of the same disk by the same script before is taken.
    pub fn customise(&self, image: &Image, progress: &dyn Progress) -> Result<Customisation> {
        if !image.is_pending() {
            return Ok(Customisation::Done(Box::new(image.clone())));
        }
        let label = image.to_string();
        let locks = pull::lock_for_work(self, &image.folder, &label, progress)?;
        // Another one may have done it while we waited.
        let missing = StorageSnafu { action: "find", path: &image.folder };
        let image =
            self.load(&image.folder)?.ok_or_else(|| std::io::ErrorKind::NotFound.into()).context(missing)?;
        let Some(script) = image.metadata.customise.clone() else {
            return Ok(Customisation::Done(Box::new(image)));
        };
        let version = image.metadata.system.unwrap_or(image.version());
        let partial = pull::fresh_partial(&image.folder)?;
        let work =
            Box::new(Customising { store: self.clone(), image, partial, script, version, _locks: locks });
        for layer in self.layers.made_by(work.key())? {
            let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) else { continue };
            if verify::verify(folder, slice::from_ref(content), Thoroughness::Full)?.is_none() {
                share::share_files(&work.image, &work.partial)?;
                return Ok(Customisation::Done(Box::new(work.publish_upon(&layer)?)));
            }
        }
        progress.step(Step { stage: Stage::Customising, subject: &label, done: 0, total: None });
        // Long before they are looked at: then that they are good can be remembered.
        share::share_files(&work.image, &work.partial)?;
        work.make_disk()?;
        Ok(Customisation::Due(work))
    }
}

impl Customising {
    /// The image, as it is until now.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The whole script, for `sh -e`, and its arguments.
    pub fn script(&self) -> (String, [String; 1]) {
        (format!("{}\n{WRITE_VERSION}", self.script), [self.version.to_string()])
    }

    /// The layers of the disk that the script is to change, from the base up. Only the last one is to be written.
    pub fn disk(&self) -> Result<Vec<LayerSpec>> {
        let mut layers: Vec<_> =
            self.store.layers.chain(self.image.layer())?.iter().map(Layer::spec).collect();
        layers.push(LayerSpec { path: self.data(), format: Format::Qcow2 });
        Ok(layers)
    }

    /// Makes the image that stands on what the script did: to be called when the machine has ended in order, and nobody
    /// has its disk any more.
    pub fn publish(self: Box<Self>) -> Result<Image> {
        self.check()?;
        let data = self.data();
        let storage = StorageSnafu { action: "read", path: &data };
        let file = std::fs::File::open(&data).context(storage)?;
        let content = Digest::of_reader(file, |_| ()).context(storage)?;
        let base = self.image.layer().clone();
        let layer = self.store.layers.adopt_upon(&data, Format::Qcow2, content, (base, self.key()))?;
        if let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) {
            verify::verify(folder, slice::from_ref(content), Thoroughness::Remembered)?;
        }
        self.publish_upon(&layer)
    }

    /// What the result is known by: the disk that the script began with, the script, and what it is told.
    fn key(&self) -> Digest {
        let (script, [version]) = self.script();
        Digest::of(format!("{}\n{version}\n{script}", self.image.layer()).as_bytes())
    }

    fn data(&self) -> PathBuf {
        self.partial.join("disk.qcow2")
    }

    fn make_disk(&self) -> Result<()> {
        let base = self.store.layers.layer(self.image.layer())?;
        let path = &base.path;
        let info = vmm_disk::inspect(path, base.format).map_err(Into::into).context(DiskSnafu { path })?;
        // A power cut loses it, and with it nothing: it is synced when it becomes a layer.
        let data = self.data();
        vmm_disk::create_overlay_unsynced(&data, info.virtual_size)
            .map_err(Into::into)
            .context(MakeLayerSnafu { path: data })
    }

    /// Whether the disk says what it should.
    fn check(&self) -> Result<()> {
        let device = &self.image.profile().root.device;
        let found = system_version(&RootFileSystem::open(&self.disk()?, device)?)?;
        let image = self.image.to_string();
        let found = found.with_context(|| CustomiseSnafu { image, why: "its script wrote no version" })?;
        check_system(self.version, found, &self.data()).map(drop)
    }

    /// Gives the image the new layer.
    fn publish_upon(self: Box<Self>, layer: &Layer) -> Result<Image> {
        let Self { store, image, partial, script, .. } = &*self;
        let metadata = Metadata {
            layer: layer.id.clone(),
            customise: None,
            customised: Some(Digest::of(script.as_bytes())),
            system: Some(self.version),
            ..image.metadata.clone()
        };
        share::publish_checked(store, metadata, partial)
    }
}

impl Drop for Customising {
    fn drop(&mut self) {
        // Where it was published, nothing is there any more; and what stays, the next pull removes.
        let _ = files::remove_folder(&self.partial);
    }
}

/// The version that a root file system says it is of, if it says so.
pub(super) fn system_version(root: &RootFileSystem) -> Result<Option<ImageVersion>> {
    if !root.has(VERSION_FILE)? {
        return Ok(None);
    }
    let text = root.read(VERSION_FILE, LONGEST_VERSION)?;
    Ok(String::from_utf8_lossy(&text).trim().parse().ok())
}

/// Whether a disk that says it is of one version goes with an image that is to be of another: not where that is another
/// release, and with a warning where it is another patch.
pub(super) fn check_system(wanted: ImageVersion, found: ImageVersion, disk: &Path) -> Result<Compatibility> {
    let compatibility = wanted.compatibility(&found);
    ensure!(
        compatibility != Compatibility::Other,
        IncompatibleSystemSnafu { path: disk, wanted: wanted.to_string(), found: found.to_string() }
    );
    if wanted.release() != found.release() {
        tracing::warn!(disk = %disk.display(), %wanted, %found, "the disk is of another patch of the image");
    }
    Ok(compatibility)
}

/// What the files of an image that was customised are known by in its origin.
pub(super) fn origin_of(script: &str) -> FileRecord {
    let (size, sha256) = (script.len() as u64, Digest::of(script.as_bytes()));
    FileRecord { name: "the script that customises it".to_owned(), size, sha256 }
}

#[cfg(test)]
mod tests;
