//! A pull, from the catalog's entry to an image that boots.
//!
//! Everything is made in `<image>.partial`, next to where it will be, and gets its name when it is complete and on the
//! disk. The base layer is taken into the layers' folder before: if the pull dies then, the next one finds it there.

use std::path::{Path, PathBuf};
use std::slice;
use std::sync::mpsc;
use std::time::Duration;

use snafu::{OptionExt, ResultExt};
use vmm_sys::FileLock;

use super::catalog::{Artifact, ImageSpec};
use super::error::{CancelledSnafu, DamagedSnafu, KernelSnafu, Result, RootContentsSnafu, StorageSnafu};
use super::files;
use super::image::{Image, KERNEL, METADATA, MODULES, Metadata};
use super::kernel_modules::{self, Extras};
use super::layers::Layer;
use super::progress::{Progress, Stage, Step};
use super::record::{self, FileRecord};
use super::root::RootFileSystem;
use super::source::{Workshop, with_cached};
use super::store::ImageStore;
use super::transform;
use super::verify::{self, Damage, Thoroughness};
use crate::boot::Kernel;

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullMode {
    /// When it is not here.
    IfMissing,
    /// In any case: what is here, perhaps damaged, is replaced. Machines that run keep what they have open.
    Force,
}

/// A pull that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it was fetched; if not, it was here already.
    pub fetched: bool,
}

/// How often a pull that waits for another one looks whether it should give up.
const GLANCE: Duration = Duration::from_millis(50);

/// A kernel that was unpacked here was smaller.
const LARGEST_KERNEL: u64 = 512 << 20;

pub(super) fn pull(
    store: &ImageStore,
    spec: &'static ImageSpec,
    mode: PullMode,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let folder = store.folder_of(spec.name, spec.version, spec.arch);
    let label = format!("{}:{}", spec.name, spec.version);
    let _lock = lock_patiently(store, &folder, &label, progress)?;
    if mode == PullMode::IfMissing
        && let Some(image) = store.load(&folder)?
    {
        store.verify(&image, Thoroughness::Remembered)?;
        return Ok(Pulled { image, fetched: false });
    }
    remove_remains(store)?;
    // Under the lock, what another pull had begun is what a dead one left.
    let partial = files::partial_of(&folder);
    files::remove_folder(&partial)?;
    files::make_folder(&partial)?;
    let pull = Pull { store, spec, mode, progress, label: &label, partial: &partial };
    let made = pull.make().and_then(|()| {
        if folder.exists() {
            files::exchange(&partial, &folder)?;
            files::remove_folder(&partial)
        } else {
            files::rename(&partial, &folder)
        }
    });
    if let Err(error) = made {
        // The first error is the one to tell.
        let _ = files::remove_folder(&partial);
        return Err(with_cached(error, pull.cached()));
    }
    let missing = StorageSnafu { action: "find what was just made in", path: &folder };
    let image = store.load(&folder)?.ok_or_else(|| std::io::ErrorKind::NotFound.into()).context(missing)?;
    Ok(Pulled { image, fetched: true })
}

/// Locks an image against pulls and removals, waiting for whoever has it.
pub(super) fn lock(store: &ImageStore, folder: &Path) -> Result<FileLock> {
    let path = lock_path(store, folder)?;
    FileLock::exclusive(&path).context(StorageSnafu { action: "lock", path })
}

pub(super) fn lock_patiently(
    store: &ImageStore,
    folder: &Path,
    label: &str,
    progress: &dyn Progress,
) -> Result<FileLock> {
    let path = lock_path(store, folder)?;
    let storage = StorageSnafu { action: "lock", path: &path };
    if let Some(lock) = FileLock::try_exclusive(&path).context(storage)? {
        return Ok(lock);
    }
    // A thread waits for the lock, so that we can tell whom we wait for and give up. If we do, it lets the lock go when
    // it gets it.
    let (sender, locked) = mpsc::channel();
    let waited_for = path.clone();
    std::thread::spawn(move || sender.send(FileLock::exclusive(&waited_for)));
    loop {
        progress.step(Step { stage: Stage::Waiting, subject: label, done: 0, total: None });
        match locked.recv_timeout(GLANCE) {
            Ok(lock) => return lock.context(storage),
            Err(_) if progress.cancelled() => return CancelledSnafu { image: label }.fail(),
            Err(_) => {}
        }
    }
}

/// Removes what pulls of other images had begun when they died: whoever can lock it is alone with it.
pub(super) fn remove_remains(store: &ImageStore) -> Result<()> {
    for name in files::names_in(&store.images)? {
        let parent = store.images.join(name);
        for name in files::names_in(&parent)? {
            let Some(image) = name.strip_suffix(files::PARTIAL) else { continue };
            let path = lock_path(store, &parent.join(image))?;
            let lock =
                FileLock::try_exclusive(&path).context(StorageSnafu { action: "lock", path: &path })?;
            if lock.is_some() {
                files::remove_folder(&parent.join(&name))?;
            }
        }
    }
    Ok(())
}

/// The lock lies beside the image's folder, which is replaced as a whole, and is never removed.
fn lock_path(store: &ImageStore, folder: &Path) -> Result<PathBuf> {
    let parent = folder.parent().unwrap_or(&store.images);
    files::make_folder(parent)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(parent.join(format!(".{name}.lock")))
}

/// A pull at work.
struct Pull<'a> {
    store: &'a ImageStore,
    spec: &'static ImageSpec,
    mode: PullMode,
    progress: &'a dyn Progress,
    label: &'a str,
    partial: &'a Path,
}

impl Pull<'_> {
    /// Makes everything that an image is, in the partial folder.
    fn make(&self) -> Result<()> {
        let spec = self.spec;
        let workshop_folder = self.partial.join("fetched");
        files::make_folder(&workshop_folder)?;
        let workshop = Workshop {
            folder: &workshop_folder,
            image: self.label,
            search_path: self.store.search_path.clone(),
            progress: self.progress,
        };
        let kernel_path = self.partial.join(KERNEL);
        let layer = self.layer(&workshop)?;
        self.artifact(&spec.kernel, &workshop, &kernel_path)?;
        files::remove_folder(&workshop_folder)?;

        let profile = (spec.profile)();
        let kernel_release = self.kernel_release(&kernel_path)?;
        self.tell("kernel modules");
        let root = RootFileSystem::open(&[layer.spec()], &profile.root.device)?;
        let modules = self.partial.join(MODULES);
        let file_system = &profile.root.file_system;
        let mut files = kernel_modules::extract(
            &root,
            &kernel_release,
            (file_system, Extras::default()),
            &modules,
            (&layer.path, self.label),
        )?;
        let kernel = spec.kernel.result;
        files.insert(0, FileRecord { name: KERNEL.to_owned(), size: kernel.size, sha256: kernel.sha256 });
        self.tell("records");
        if let Some(Damage { path, what }) = verify::verify(self.partial, &files, Thoroughness::Full)? {
            return DamagedSnafu { path, what, image: self.label }.fail();
        }
        let metadata = Metadata {
            name: spec.name.parse().ok().with_context(|| self.impossible("a name that is none"))?,
            version: spec.version,
            arch: spec.arch,
            kernel_release,
            layer: layer.id.clone(),
            files,
            profile,
            origin: [&spec.kernel, &spec.disk].into_iter().filter_map(origin).collect(),
        };
        let bytes = record::to_bytes(&metadata)
            .map_err(std::io::Error::from)
            .context(StorageSnafu { action: "record", path: self.partial })?;
        files::write_new(&self.partial.join(METADATA), &bytes)?;
        files::sync_folder(self.partial)?;
        // What was read back above is remembered for the first start.
        if let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) {
            verify::verify(folder, slice::from_ref(content), Thoroughness::Remembered)?;
        }
        Ok(())
    }

    /// The disk, as a layer of the store. One that is there and good is not fetched again.
    fn layer(&self, workshop: &Workshop<'_>) -> Result<Layer> {
        let content = (self.spec.disk.result.sha256, self.spec.disk.result.size);
        let layers = &self.store.layers;
        if self.mode == PullMode::IfMissing
            && let Some(there) = layers.base(content.0)
            && let (Some(record), Some(folder)) = (&there.content, there.path.parent())
            && verify::verify(folder, slice::from_ref(record), Thoroughness::Full)?.is_none()
        {
            return Ok(there);
        }
        let disk = self.partial.join("disk");
        self.artifact(&self.spec.disk, workshop, &disk)?;
        layers.adopt(&disk, self.spec.disk_format, content)
    }

    /// Fetches an artifact from the first source that has it, and brings it into its final form.
    fn artifact(&self, artifact: &Artifact, workshop: &Workshop<'_>, to: &Path) -> Result<()> {
        let fetched = workshop.folder.join("artifact");
        let mut last = None;
        for source in artifact.sources {
            files::remove_file(&fetched)?;
            let what = source.describe();
            let attempt = source
                .fetch(workshop, &artifact.fetched, &fetched)
                .and_then(|()| artifact.fetched.check(&fetched, &what, self.progress));
            match attempt {
                Ok(()) => {
                    last = None;
                    break;
                }
                Err(error) if self.progress.cancelled() => return Err(error),
                Err(error) => {
                    tracing::warn!(source = what, %error, "a source has failed");
                    last = Some(error);
                }
            }
        }
        if let Some(error) = last {
            return Err(error);
        }
        self.tell(&to.file_name().unwrap_or_default().to_string_lossy());
        let size = artifact.result.size;
        transform::apply_all(artifact.transforms, &fetched, to, size, (self.label, self.progress))?;
        if artifact.transforms.is_empty() {
            return Ok(());
        }
        artifact.result.check(to, &to.display().to_string(), self.progress)
    }

    fn kernel_release(&self, path: &Path) -> Result<String> {
        let bytes = files::read(path, LARGEST_KERNEL)?.unwrap_or_default();
        let kernel =
            Kernel::from_file_contents(&bytes, self.spec.arch).context(KernelSnafu { image: self.label })?;
        kernel.release().with_context(|| self.impossible("a kernel that does not tell its release"))
    }

    fn impossible(&self, what: &str) -> RootContentsSnafu<PathBuf, String> {
        RootContentsSnafu { path: self.partial.to_owned(), what: what.to_owned() }
    }

    fn tell(&self, subject: &str) {
        self.progress.step(Step { stage: Stage::Unpacking, subject, done: 0, total: None });
    }

    /// What works without a network.
    fn cached(&self) -> String {
        let images = self.store.list().unwrap_or_default();
        let names: Vec<String> =
            images.iter().filter(|image| image.arch() == self.spec.arch).map(Image::to_string).collect();
        if names.is_empty() {
            "no image is cached".to_owned()
        } else {
            format!("cached are {}", names.join(", "))
        }
    }
}

fn origin(artifact: &Artifact) -> Option<FileRecord> {
    let name = artifact.sources.first()?.describe();
    Some(FileRecord { name, size: artifact.fetched.size, sha256: artifact.fetched.sha256 })
}

#[cfg(test)]
mod tests;
