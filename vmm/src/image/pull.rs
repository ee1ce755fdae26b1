//! A pull, from the catalog's entry to an image that boots.
//!
//! Everything is made in `<image>.partial`, next to where it will be, and gets its name when it is complete and on the
//! disk. The base layer is taken into the layers' folder before: if the pull dies then, the next one finds it there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{SystemTime, UNIX_EPOCH};

use snafu::{OptionExt, ResultExt};
use vmm_sys::FileLock;

use super::catalog::{Artifact, DiskFrom, ImageSpec, KernelFrom, Pin};
use super::customise;
use super::digest::Digest;
use super::error::{DamagedSnafu, KernelSnafu, Result, RootContentsSnafu, StorageSnafu};
use super::files;
use super::image::{Image, KERNEL, METADATA, MODULES, Metadata};
use super::kernel_modules::{self, Extras};
use super::layers::Layer;
use super::progress::{Named, Progress, Stage, Step};
use super::pull_log::{self, Account, Outcome};
use super::record::{self, FileRecord};
use super::root::RootFileSystem;
use super::source::{Published, Workshop, with_cached};
use super::store::ImageStore;
use super::transform;
use super::verify::{self, Damage, Thoroughness};
use super::waiting::{lock_patiently, share_patiently};
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

/// What a download without a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// The image, by the name that only that has.
    pub image: String,
    /// Whether anything was fetched; if not, it was here already.
    pub fetched: bool,
}

/// What a disk is called while it comes.
const ROOTFS: &str = "rootfs";

/// A kernel that was unpacked here was smaller.
const LARGEST_KERNEL: u64 = 512 << 20;

pub(super) fn pull(
    store: &ImageStore,
    spec: &'static ImageSpec,
    mode: PullMode,
    progress: &dyn Progress,
) -> Result<Pulled> {
    logged(store, spec, progress, |account| pull_unlogged(store, spec, mode, progress, account))
}

/// Fetches what an image is made from, and makes nothing of it yet.
pub(super) fn download(
    store: &ImageStore,
    spec: &'static ImageSpec,
    progress: &dyn Progress,
) -> Result<Downloaded> {
    let fetched = logged(store, spec, progress, |account| download_unlogged(store, spec, progress, account))?;
    Ok(Downloaded { image: label_of(spec), fetched })
}

/// What work on an image did.
trait Worked {
    fn outcome(&self) -> Outcome;
}

impl Worked for Pulled {
    fn outcome(&self) -> Outcome {
        if self.fetched { Outcome::Pulled } else { Outcome::Cached }
    }
}

impl Worked for bool {
    fn outcome(&self) -> Outcome {
        if *self { Outcome::Downloaded } else { Outcome::Cached }
    }
}

/// Does it, tells of which image it is, and writes a line of it into the log.
fn logged<T: Worked>(
    store: &ImageStore,
    spec: &ImageSpec,
    progress: &dyn Progress,
    work: impl FnOnce(&RefCell<Account>) -> Result<T>,
) -> Result<T> {
    let [major, minor, _] = spec.version.release();
    let short = format!("{} {major}.{minor}", spec.name);
    progress.image(&short);
    let account = RefCell::new(Account::new());
    let worked = work(&account);
    let ended = worked.as_ref().map(T::outcome);
    if let Ok(Outcome::Cached) = ended {
        progress.step(Step { stage: Stage::Cached, subject: &short, done: 0, total: None });
    }
    let entry = account.into_inner().close(&label_of(spec), &spec.arch.to_string(), ended);
    pull_log::append(&store.images, &entry);
    worked
}

fn label_of(spec: &ImageSpec) -> String {
    format!("{}:{}", spec.name, spec.version)
}

fn pull_unlogged(
    store: &ImageStore,
    spec: &'static ImageSpec,
    mode: PullMode,
    progress: &dyn Progress,
    account: &RefCell<Account>,
) -> Result<Pulled> {
    let folder = store.folder_of(spec.name, spec.version, spec.arch);
    let label = label_of(spec);
    let _locks = lock_for_work(store, &folder, &label, progress)?;
    if mode == PullMode::IfMissing
        && let Some(image) = store.load(&folder)?
    {
        store.verify(&image, Thoroughness::Remembered)?;
        if store.has_drifted(&image) == Some(true) {
            tracing::warn!(
                label,
                "the catalog has another entry of this version: it is pulled anew with --force"
            );
        }
        return Ok(Pulled { image, fetched: false });
    }
    prune_remains(store, false)?;
    let partial = fresh_partial(&folder)?;
    let pull = Pull { store, spec, mode, progress, label: &label, partial: &partial, account };
    match pull.make().and_then(|metadata| publish(store, metadata, &partial)) {
        Ok(image) => Ok(Pulled { image, fetched: true }),
        Err(error) => {
            // The first error is the one to tell.
            let _ = files::remove_folder(&partial);
            Err(with_cached(error, pull.cached()))
        }
    }
}

fn download_unlogged(
    store: &ImageStore,
    spec: &'static ImageSpec,
    progress: &dyn Progress,
    account: &RefCell<Account>,
) -> Result<bool> {
    let folder = store.folder_of(spec.name, spec.version, spec.arch);
    let label = label_of(spec);
    let _locks = lock_for_work(store, &folder, &label, progress)?;
    if store.load(&folder)?.is_some() {
        return Ok(false);
    }
    let partial = fresh_partial(&folder)?;
    let mode = PullMode::IfMissing;
    let pull = Pull { store, spec, mode, progress, label: &label, partial: &partial, account };
    let fetched = pull.fetch_all();
    let removed = files::remove_folder(&partial);
    let fetched = fetched.map_err(|error| with_cached(error, pull.cached()))?;
    removed.map(|()| fetched)
}

/// What whoever changes an image holds: the image's lock, and a share of that against pruning.
pub(super) fn lock_for_work(
    store: &ImageStore,
    folder: &Path,
    label: &str,
    progress: &dyn Progress,
) -> Result<[FileLock; 2]> {
    let shared = share_patiently(&store.work_lock(), label, progress)?;
    Ok([shared, lock_patiently(&lock_path(store, folder)?, label, progress)?])
}

/// An empty folder to make an image in. Under the image's lock, what another pull had begun is what a dead one left.
pub(super) fn fresh_partial(folder: &Path) -> Result<PathBuf> {
    let partial = files::partial_of(folder);
    files::remove_folder(&partial)?;
    files::make_folder(&partial)?;
    Ok(partial)
}

/// Writes the record of an image whose files are in `partial`, sees all of it on the disk, and gives it its place.
pub(super) fn publish(store: &ImageStore, metadata: Metadata, partial: &Path) -> Result<Image> {
    let bytes = record::to_bytes(&metadata)
        .map_err(std::io::Error::from)
        .context(StorageSnafu { action: "record", path: partial })?;
    files::write_new(&partial.join(METADATA), &bytes)?;
    for folder in folders_of(&metadata.files) {
        files::sync_folder(&partial.join(folder))?;
    }
    let folder = store.folder_of(metadata.name.as_str(), metadata.version, metadata.arch);
    let replaces = folder.exists();
    if replaces {
        files::exchange(partial, &folder)?;
    } else {
        files::rename(partial, &folder)?;
    }
    // The folder of its name may be new, too.
    files::sync_folder(&store.images)?;
    if replaces {
        files::remove_folder(partial)?;
    }
    Ok(Image { folder, metadata })
}

/// The folders that files lie in, each after those within it, and at last the one that their names begin in.
fn folders_of(records: &[FileRecord]) -> Vec<&Path> {
    let above = records.iter().flat_map(|record| Path::new(&record.name).ancestors().skip(1));
    let folders: BTreeSet<&Path> = above.chain([Path::new("")]).collect();
    folders.into_iter().rev().collect()
}

/// Locks an image against pulls and removals, waiting for whoever has it.
pub(super) fn lock(store: &ImageStore, folder: &Path) -> Result<FileLock> {
    let path = lock_path(store, folder)?;
    FileLock::exclusive(&path).context(StorageSnafu { action: "lock", path })
}

/// Removes what pulls had begun when they died, or only tells of it: whoever can lock it is alone with it. Gives each
/// folder with what it takes.
pub(super) fn prune_remains(store: &ImageStore, dry_run: bool) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for parent in store.folders()? {
        for name in files::names_in(&parent)? {
            let Some(image) = name.strip_suffix(files::PARTIAL) else { continue };
            let path = lock_path(store, &parent.join(image))?;
            let lock =
                FileLock::try_exclusive(&path).context(StorageSnafu { action: "lock", path: &path })?;
            if lock.is_some() {
                let remains = parent.join(&name);
                found.push((remains.clone(), files::allocated(&remains)));
                if !dry_run {
                    files::remove_folder(&remains)?;
                }
            }
        }
    }
    Ok(found)
}

/// The lock lies beside the image's folder, which is replaced as a whole, and is never removed.
fn lock_path(store: &ImageStore, folder: &Path) -> Result<PathBuf> {
    let parent = folder.parent().unwrap_or(&store.images);
    files::make_folder(parent)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(parent.join(format!(".{name}.lock")))
}

/// Removes what is left of the place of an image that did not come to be: its lock, and the folder of its name, where nothing
/// else is in that and nobody is at work in the store.
pub(super) fn forget_place(store: &ImageStore, folder: &Path) {
    let Ok(Some(_alone)) = FileLock::try_exclusive(&store.work_lock()) else { return };
    let (Ok(lock), Some(parent)) = (lock_path(store, folder), folder.parent()) else { return };
    if files::names_in(parent).is_ok_and(|names| names.iter().all(|name| lock.ends_with(name))) {
        let _ = fs::remove_file(lock);
        let _ = fs::remove_dir(parent);
    }
}

/// A pull at work.
struct Pull<'a> {
    store: &'a ImageStore,
    spec: &'static ImageSpec,
    mode: PullMode,
    progress: &'a dyn Progress,
    label: &'a str,
    partial: &'a Path,
    account: &'a RefCell<Account>,
}

impl Pull<'_> {
    /// Makes everything that an image is but its record, in the partial folder.
    fn make(&self) -> Result<Metadata> {
        let spec = self.spec;
        let workshop_folder = self.workshop_folder()?;
        let kernel_path = self.partial.join(KERNEL);
        let layer = self.layer(&workshop_folder)?;
        self.kernel(&layer, &workshop_folder, &kernel_path)?;
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
        files.insert(0, self.kernel_record(&kernel_path)?);
        self.tell("records");
        // What was fetched is in its place, and needs no second name: its times do not change once they are remembered.
        if let KernelFrom::Artifact(kernel) = &spec.kernel {
            self.store.downloads.forget(kernel.fetched.sha256)?;
        }
        if let Some(Damage { path, what }) = verify::verify(self.partial, &files, Thoroughness::Full)? {
            return DamagedSnafu { path, what, image: self.label }.fail();
        }
        // What was read back is remembered for the first start.
        if let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) {
            verify::verify(folder, slice::from_ref(content), Thoroughness::Remembered)?;
        }
        Ok(Metadata {
            name: spec.name.parse().ok().with_context(|| self.impossible("a name that is none"))?,
            version: spec.version,
            arch: spec.arch,
            kernel_release,
            layer: layer.id.clone(),
            files,
            profile,
            origin: self.origin(&layer),
            pulled_ms: Some(now_ms()),
            catalog: Some(spec.digest()),
            customise: spec.customise.map(ToOwned::to_owned),
            customised: None,
            system: spec.customise.map(|_| spec.version),
            vm: None,
        })
    }

    /// Fetches all artifacts, and keeps them for the pull that is to come. Whether there was anything to fetch.
    fn fetch_all(&self) -> Result<bool> {
        let workshop_folder = self.workshop_folder()?;
        let mut any = false;
        if let DiskFrom::Artifact(disk) = &self.spec.disk {
            any |= self.fetch_and_keep(disk, ROOTFS, &workshop_folder)?;
        }
        if let DiskFrom::Published(disk) = &self.spec.disk {
            any |= self.fetch_published_and_keep(disk, &workshop_folder)?;
        }
        if let KernelFrom::Artifact(kernel) = &self.spec.kernel {
            any |= self.fetch_and_keep(kernel, "kernel", &workshop_folder)?;
        }
        Ok(any)
    }

    fn fetch_and_keep(&self, artifact: &Artifact, subject: &str, folder: &Path) -> Result<bool> {
        let downloads = &self.store.downloads;
        if downloads.has(artifact.fetched.sha256) {
            return Ok(false);
        }
        self.fetched(artifact, subject, folder)?;
        Ok(true)
    }

    fn fetch_published_and_keep(&self, disk: &Published, folder: &Path) -> Result<bool> {
        let downloads = &self.store.downloads;
        if disk.trusted(&self.store.trust())?.is_some_and(|pin| downloads.has(pin.sha256)) {
            return Ok(false);
        }
        self.published(disk, folder, &folder.join("disk"))?;
        Ok(true)
    }

    fn workshop_folder(&self) -> Result<PathBuf> {
        let folder = self.partial.join("fetched");
        files::make_folder(&folder)?;
        Ok(folder)
    }

    fn workshop<'a>(&'a self, folder: &'a Path, progress: &'a dyn Progress) -> Workshop<'a> {
        Workshop {
            folder,
            downloads: &self.store.downloads,
            network: &self.store.network,
            image: self.label,
            search_path: self.store.search_path.clone(),
            progress,
        }
    }

    /// The disk, as a layer of the store. One that is there and good is not fetched again.
    fn layer(&self, workshop_folder: &Path) -> Result<Layer> {
        let disk = self.partial.join("disk");
        let (fetched, content) = match &self.spec.disk {
            DiskFrom::Artifact(artifact) => {
                if let Some(layer) = self.layer_that_is_here(artifact.result.sha256)? {
                    return Ok(layer);
                }
                self.artifact(artifact, ROOTFS, workshop_folder, &disk)?;
                (artifact.fetched.sha256, artifact.result)
            }
            DiskFrom::Published(published) => {
                if let Some(trusted) = published.trusted(&self.store.trust())?
                    && let Some(layer) = self.layer_that_is_here(trusted.sha256)?
                {
                    return Ok(layer);
                }
                let pin = self.published(published, workshop_folder, &disk)?;
                (pin.sha256, pin)
            }
        };
        let layer = self.store.layers.adopt(&disk, self.spec.disk_format, (content.sha256, content.size))?;
        self.store.downloads.forget(fetched)?;
        Ok(layer)
    }

    fn layer_that_is_here(&self, sha256: Digest) -> Result<Option<Layer>> {
        if self.mode == PullMode::IfMissing
            && let Some(there) = self.store.layers.base(sha256)
            && let (Some(record), Some(folder)) = (&there.content, there.path.parent())
            && verify::verify(folder, slice::from_ref(record), Thoroughness::Full)?.is_none()
        {
            return Ok(Some(there));
        }
        Ok(None)
    }

    /// A disk that its publisher vouches for. What comes is kept until it is in its place.
    fn published(&self, published: &Published, workshop_folder: &Path, to: &Path) -> Result<Pin> {
        let named = Named { progress: self.progress, subject: ROOTFS };
        let workshop = self.workshop(workshop_folder, &named);
        let pin = published.fetch(&workshop, &self.store.trust(), to)?;
        self.store.downloads.keep(to, pin.sha256)?;
        self.account.borrow_mut().add(published.url.to_owned(), pin.size);
        Ok(pin)
    }

    /// The kernel, in the form that an engine loads.
    fn kernel(&self, layer: &Layer, workshop_folder: &Path, to: &Path) -> Result<()> {
        match &self.spec.kernel {
            KernelFrom::Artifact(artifact) => {
                if self.kernel_that_is_here(&artifact.result, to)? {
                    return Ok(());
                }
                self.artifact(artifact, "kernel", workshop_folder, to)
            }
            KernelFrom::Root(inside) => {
                self.tell("kernel");
                let device = (self.spec.profile)().root.device;
                let root = RootFileSystem::open(&[layer.spec()], &device)?;
                let packed = root.read(inside, transform::LARGEST_KERNEL_FILE)?;
                let kernel = Kernel::from_file_contents(&packed, self.spec.arch)
                    .context(KernelSnafu { image: self.label })?;
                files::write_new(to, kernel.bytes())
            }
        }
    }

    /// Takes the kernel of another image that is here, such as the version before, where that is the same.
    fn kernel_that_is_here(&self, wanted: &Pin, to: &Path) -> Result<bool> {
        if self.mode == PullMode::Force {
            return Ok(false);
        }
        let same = |image: &Image| {
            image.metadata.files.iter().any(|file| file.name == KERNEL && file.sha256 == wanted.sha256)
        };
        for image in self.store.list()?.iter().filter(|image| same(image)) {
            files::remove_file(to)?;
            files::share(&image.kernel(), to)?;
            if wanted.check(to, "kernel", self.progress).is_ok() {
                return Ok(true);
            }
        }
        files::remove_file(to)?;
        Ok(false)
    }

    /// Fetches an artifact, and brings it into its final form.
    fn artifact(&self, artifact: &Artifact, subject: &str, folder: &Path, to: &Path) -> Result<()> {
        let fetched = self.fetched(artifact, subject, folder)?;
        self.tell(subject);
        let size = artifact.result.size;
        transform::apply_all(artifact.transforms, &fetched, to, size, (self.label, self.progress))?;
        if artifact.transforms.is_empty() {
            return Ok(());
        }
        artifact.result.check(to, &to.display().to_string(), self.progress)
    }

    /// Fetches an artifact from the first source that has it, unless it was fetched before. It is kept until it is in its
    /// place.
    fn fetched(&self, artifact: &Artifact, subject: &str, folder: &Path) -> Result<PathBuf> {
        let named = Named { progress: self.progress, subject };
        let workshop = self.workshop(folder, &named);
        let fetched = folder.join("artifact");
        if self.store.downloads.take(artifact.fetched.sha256, &fetched)? {
            if artifact.fetched.check(&fetched, "what was downloaded before", &named).is_ok() {
                return Ok(fetched);
            }
            tracing::warn!(subject, "what was downloaded before is damaged: it is fetched again");
        }
        let mut last = None;
        for source in artifact.sources {
            files::remove_file(&fetched)?;
            let what = source.describe();
            let attempt = source
                .fetch(&workshop, &artifact.fetched, &fetched)
                .and_then(|()| artifact.fetched.check(&fetched, &what, &named));
            match attempt {
                Ok(()) => {
                    self.store.downloads.keep(&fetched, artifact.fetched.sha256)?;
                    self.account.borrow_mut().add(what, artifact.fetched.size);
                    return Ok(fetched);
                }
                Err(error) if self.progress.cancelled() => return Err(error),
                Err(error) => {
                    // What a source kept may be what was found wrong just now.
                    self.store.downloads.forget(artifact.fetched.sha256)?;
                    tracing::warn!(source = what, %error, "a source has failed");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.impossible("an artifact without a source").build()))
    }

    fn kernel_record(&self, path: &Path) -> Result<FileRecord> {
        let (sha256, size) = match &self.spec.kernel {
            KernelFrom::Artifact(kernel) => (kernel.result.sha256, kernel.result.size),
            KernelFrom::Root(_) => {
                let storage = StorageSnafu { action: "read", path };
                let file = std::fs::File::open(path).context(storage)?;
                Digest::of_reader(file, |_| ()).context(storage)?
            }
        };
        Ok(FileRecord { name: KERNEL.to_owned(), size, sha256 })
    }

    /// What it was made from.
    fn origin(&self, layer: &Layer) -> Vec<FileRecord> {
        let mut origin = Vec::new();
        if let KernelFrom::Artifact(kernel) = &self.spec.kernel {
            origin.extend(origin_of(kernel));
        }
        match (&self.spec.disk, &layer.content) {
            (DiskFrom::Artifact(disk), _) => origin.extend(origin_of(disk)),
            (DiskFrom::Published(disk), Some(content)) => {
                let FileRecord { size, sha256, .. } = *content;
                origin.push(FileRecord { name: disk.url.to_owned(), size, sha256 });
            }
            (DiskFrom::Published(_), None) => {}
        }
        origin.extend(self.spec.customise.map(customise::origin_of));
        origin
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

fn origin_of(artifact: &Artifact) -> Option<FileRecord> {
    let name = artifact.sources.first()?.describe();
    Some(FileRecord { name, size: artifact.fetched.size, sha256: artifact.fetched.sha256 })
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
