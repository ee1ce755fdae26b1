//! The store: what is here, and what a start takes from it.

use std::path::{Path, PathBuf};
use std::slice;

use snafu::OptionExt;
use vmm_disk::LayerSpec;

use super::catalog::Catalog;
use super::downloads::Downloads;
use super::error::{
    CancelledSnafu, DamagedCommitSnafu, DamagedImportSnafu, DamagedLayerSnafu, DamagedSnafu,
    FileChangedSnafu, ImageError, IncompatibleSnafu, NewerSnafu, NotPulledSnafu, Result, UnknownSnafu,
};
use super::files;
use super::image::{Image, KERNEL, METADATA, Metadata};
use super::kernel_modules::{self, Extras};
use super::layers::{Layer, LayerId, LayerStore};
use super::progress::Progress;
use super::pull::{self, Downloaded, PullMode, Pulled};
use super::record::{self, FileRecord, Refusal};
use super::reference::{ImageName, ImageRef};
use super::root::RootFileSystem;
use super::source::Network;
use super::verify::{self, Damage, Thoroughness};
use super::version::{Compatibility, ImageVersion};
use crate::arch::Arch;

/// All images and layers of a folder. Several processes may use it at once.
///
/// ```text
/// images/<name>/<version>-<arch>/   an image: metadata.json, vmlinux, modules/, initramfs-….cpio
/// layers/                           the data of disks, see [`LayerStore`]
/// ```
///
/// ```no_run
/// use vmm::arch::Arch;
/// use vmm::image::{ImageStore, PullMode};
///
/// let store = ImageStore::open("/home/me/.local/share/vmm".as_ref())?;
/// let alpine = "alpine".parse()?;
/// let pulled = store.pull(&alpine, Arch::X86_64, PullMode::IfMissing, &())?;
/// println!("{} is in {}", pulled.image, pulled.image.folder().display());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(super) images: PathBuf,
    pub(super) layers: LayerStore,
    pub(super) catalog: Catalog,
    /// Where the programs that fetch things are looked for; the environment's `PATH` unless a test says otherwise.
    pub(super) search_path: std::ffi::OsString,
    pub(super) downloads: Downloads,
    /// How web servers are reached.
    pub(super) network: Network,
}

/// What a machine boots from, found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel, in the form that an engine loads.
    pub kernel: PathBuf,
    /// The initial file system, with the agent in it.
    pub initramfs: PathBuf,
    /// The layers of the image's disk, from the base up.
    pub layers: Vec<Layer>,
}

impl ImageStore {
    /// Opens the store in a folder (`VMM_HOME`), and makes it if it is not there yet.
    pub fn open(root: &Path) -> Result<Self> {
        Self::with_catalog(root, Catalog::managed(), std::env::var_os("PATH").unwrap_or_default())
    }

    pub(super) fn with_catalog(
        root: &Path,
        catalog: Catalog,
        search_path: std::ffi::OsString,
    ) -> Result<Self> {
        let (images, layers) = (root.join("images"), root.join("layers"));
        let is_new = !(images.exists() && layers.exists());
        files::make_folder(&images)?;
        let layers = LayerStore::open(layers)?;
        if is_new {
            files::sync_folder(root)?;
        }
        Ok(Self {
            images,
            layers,
            catalog,
            search_path,
            downloads: Downloads::new(root.join("downloads")),
            network: Network::from_environment(),
        })
    }

    /// The data of all disks.
    pub fn layers(&self) -> &LayerStore {
        &self.layers
    }

    /// The image that a reference means: the catalog's newest that fits, or, where the catalog has none, the newest in
    /// the store. Nothing is fetched, and nothing is verified but the image's own record.
    pub fn find(&self, image: &ImageRef, arch: Arch) -> Result<Image> {
        let in_catalog = self.catalog.find(image, arch).map(|spec| spec.version);
        if let Some(version) = in_catalog.or(image.exact_version()) {
            let folder = self.folder_of(image.name().as_str(), version, arch);
            return match self.load(&folder)? {
                Some(image) => Ok(image),
                None if in_catalog.is_some() => NotPulledSnafu { image: image.clone(), arch }.fail(),
                None => UnknownSnafu { image: image.clone(), arch, known: self.known(arch) }.fail(),
            };
        }
        let fits = |found: &Image| {
            found.name() == image.name() && found.arch() == arch && image.fits(&found.version())
        };
        // Of those of one release and one day, the one that was made last.
        let age = |image: &Image| (image.version().day(), image.metadata.pulled_ms, image.version());
        let found = self.list()?.into_iter().filter(fits).max_by_key(age);
        found.with_context(|| UnknownSnafu { image: image.clone(), arch, known: self.known(arch) })
    }

    /// The image that state of a machine goes with, which was made with this one: itself, or, where it is gone, the newest
    /// in the store that is near to it. Says how the two go together.
    pub fn find_for(&self, exact: &ImageRef, arch: Arch) -> Result<(Image, Compatibility)> {
        let error = match (self.find(exact, arch), exact.exact_version()) {
            (Ok(image), _) => return Ok((image, Compatibility::Same)),
            (Err(error @ (ImageError::Unknown { .. } | ImageError::NotPulled { .. })), Some(version)) => {
                let mut others = self.list()?;
                others.retain(|other| other.name() == exact.name() && other.arch() == arch);
                let near = |other: &Image| other.version().compatibility(&version) == Compatibility::Near;
                if let Some(image) =
                    others.iter().filter(|other| near(other)).max_by_key(|near| near.version())
                {
                    return Ok((image.clone(), Compatibility::Near));
                }
                match others.iter().max_by_key(|other| other.version()) {
                    Some(other) => {
                        return IncompatibleSnafu { wanted: exact.clone(), found: other.to_string() }.fail();
                    }
                    None => error,
                }
            }
            (Err(error), _) => error,
        };
        Err(error)
    }

    /// Fetches an image, verifies it and makes it ready to boot. One that is here already is left as it is, unless
    /// `mode` says otherwise. Of several that pull the same image at once, one fetches and the others wait for it.
    ///
    /// However it ends, nothing stays that looks complete and is not.
    pub fn pull(
        &self,
        image: &ImageRef,
        arch: Arch,
        mode: PullMode,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        match self.catalog.find(image, arch) {
            Some(spec) => pull::pull(self, spec, mode, progress),
            None => {
                // Not ours to fetch; what is in the store was put there by its user.
                let image = self.find(image, arch)?;
                Ok(Pulled { image, fetched: false })
            }
        }
    }

    /// Fetches what an image is made from, and makes nothing of it yet: a pull that comes later needs no network.
    pub fn download(&self, image: &ImageRef, arch: Arch, progress: &dyn Progress) -> Result<Downloaded> {
        match self.catalog.find(image, arch) {
            Some(spec) => pull::download(self, spec, progress),
            None => Ok(Downloaded { image: self.find(image, arch)?.to_string(), fetched: false }),
        }
    }

    /// All images, by name, version and architecture. Those whose record cannot be read are left out, with a warning
    /// in the log.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for (folder, _, _) in self.image_folders()? {
            match self.load(&folder) {
                Ok(image) => images.extend(image),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "an image cannot be read");
                }
            }
        }
        images.sort_by(|one, other| {
            let key = |image: &Image| (image.name().clone(), image.version(), image.arch());
            key(one).cmp(&key(other))
        });
        Ok(images)
    }

    /// The exact names of all images, those too whose record cannot be read.
    pub fn names(&self) -> Result<Vec<(ImageRef, Arch)>> {
        Ok(self.image_folders()?.into_iter().map(|(_, image, arch)| (image, arch)).collect())
    }

    /// The folders of all images, with what their names say. What has another name is no image.
    pub(super) fn image_folders(&self) -> Result<Vec<(PathBuf, ImageRef, Arch)>> {
        let mut found = Vec::new();
        for parent in self.folders()? {
            for name in files::names_in(&parent)? {
                let folder = parent.join(name);
                if let Some((image, arch)) = named_by(&folder) {
                    found.push((folder, image, arch));
                }
            }
        }
        Ok(found)
    }

    /// How many bytes of the store are there for an image: its own files and the layers of its disk, which it may share.
    pub fn size(&self, image: &Image) -> Result<u64> {
        let layers = self.layers.chain(image.layer())?;
        let layers = layers.iter().filter_map(|layer| layer.content.as_ref());
        Ok(image.metadata.files.iter().chain(layers).map(|record| record.size).sum())
    }

    /// Removes an image, but not its layers: machines may stand on them ([`LayerStore::unreferenced`] tells). That no
    /// machine boots from the image is the caller's knowledge.
    pub fn remove(&self, image: &Image) -> Result<()> {
        self.remove_folder(&image.folder)
    }

    pub(super) fn remove_folder(&self, folder: &Path) -> Result<()> {
        let partial = files::partial_of(folder);
        let _lock = pull::lock(self, folder)?;
        files::remove_folder(&partial)?;
        if folder.exists() {
            files::rename(folder, &partial)?;
        }
        files::remove_folder(&partial)
    }

    /// Everything that a machine boots from, found good: what every start calls. A file that is not what was pulled is
    /// an error that names it and the way to mend it. The guest has what the image has for `extras`.
    pub fn prepare(&self, image: &Image, agent: &[u8], extras: Extras) -> Result<BootFiles> {
        let layers = self.verify(image, Thoroughness::Remembered)?;
        let initramfs = self.initramfs(image, agent, Some(image.kernel_release()), extras)?;
        Ok(BootFiles { kernel: image.kernel(), initramfs, layers })
    }

    /// Whether the layers of a disk that are never written are what they were: those of a machine, which may stand on
    /// others than its image does by now.
    pub fn verify_disk(&self, layers: &[LayerSpec]) -> Result<()> {
        for layer in layers {
            let Some(folder) = layer.path.parent() else { continue };
            let id: Option<LayerId> = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(id) = id.filter(|id| self.layers.folder_of(id) == folder) else { continue };
            let layer = self.layers.layer(&id)?;
            let Some(record) = &layer.content else { continue };
            let damage = verify::verify(folder, slice::from_ref(record), Thoroughness::Remembered)?;
            let Some(Damage { path, what }) = damage else { continue };
            return match std::fs::read_link(&path) {
                Ok(file) => FileChangedSnafu { file, what }.fail(),
                Err(_) => DamagedLayerSnafu { path, what }.fail(),
            };
        }
        Ok(())
    }

    /// Whether the image's kernel, modules and layers are still what was pulled. Gives the layers of its disk, from the
    /// base up.
    pub fn verify(&self, image: &Image, thoroughness: Thoroughness) -> Result<Vec<Layer>> {
        self.verify_told(image, thoroughness, &())
    }

    /// The same, telling how far it is. It ends early when the progress says so.
    pub fn verify_told(
        &self,
        image: &Image,
        thoroughness: Thoroughness,
        progress: &dyn Progress,
    ) -> Result<Vec<Layer>> {
        let check = |folder: &Path, records: &[FileRecord]| {
            if progress.cancelled() {
                return CancelledSnafu { image: image.to_string() }.fail();
            }
            let damage = verify::verify_named(folder, records, thoroughness, verify::INDEX, progress)?;
            damage.map_or(Ok(()), |damage| self.damaged(damage, image))
        };
        check(&image.folder, &image.metadata.files)?;
        let layers = self.layers.chain(image.layer()).map_err(|error| self.in_image(error, image))?;
        for layer in &layers {
            if let (Some(record), Some(folder)) = (&layer.content, layer.path.parent()) {
                check(folder, slice::from_ref(record))?;
            }
        }
        if thoroughness == Thoroughness::Full {
            for record in kernel_modules::initramfs_records(&image.folder)? {
                check(&image.folder, slice::from_ref(&record))?;
            }
        }
        Ok(layers)
    }

    /// The initial file system for this image and agent, made or found, and found good. `kernel_release` is what
    /// `uname -r` will say: the image's modules are in it only if they are for that kernel.
    pub fn initramfs(
        &self,
        image: &Image,
        agent: &[u8],
        kernel_release: Option<&str>,
        extras: Extras,
    ) -> Result<PathBuf> {
        let extras = (kernel_release == Some(image.kernel_release())).then_some(extras);
        let root = || {
            let layers = self.layers.chain(image.layer()).map_err(|error| self.in_image(error, image))?;
            let layers: Vec<_> = layers.iter().map(Layer::spec).collect();
            RootFileSystem::open(&layers, &image.profile().root.device)
        };
        let (path, record) = kernel_modules::initramfs(image, agent, extras, &root)?;
        self.check_initramfs(image, &record)?;
        Ok(path)
    }

    fn check_initramfs(&self, image: &Image, record: &FileRecord) -> Result<()> {
        // What is remembered of it lies apart from what is remembered of the image's own files.
        let damage = verify::verify_named(
            &image.folder,
            slice::from_ref(record),
            Thoroughness::Remembered,
            ".verified-initramfs",
            &(),
        )?;
        damage.map_or(Ok(()), |damage| self.damaged(damage, image))
    }

    fn damaged<T>(&self, damage: Damage, image: &Image) -> Result<T> {
        let Damage { path, what } = damage;
        Err(self.damage(path, what, image))
    }

    /// Says what is damaged, and how it is mended.
    fn damage(&self, path: PathBuf, what: String, image: &Image) -> ImageError {
        if let Ok(file) = std::fs::read_link(&path) {
            return FileChangedSnafu { file, what }.build();
        }
        if self.catalog.find(&image.reference(), image.arch()).is_none() {
            let (vm, is_tag) = (image.metadata.vm.as_deref(), image.metadata.catalog.is_some());
            if let Some(vm) = vm {
                let name = image.name();
                // A layer is the VM's, too: there is nothing to make it of again.
                let again = path.starts_with(&image.folder);
                let again =
                    again.then(|| format!("commit it again with `vmm commit --force {vm} {name}`, or "));
                let mend = format!("{}remove it with `vmm images rm {image}`", again.unwrap_or_default());
                return DamagedCommitSnafu { path, what, mend }.build();
            }
            let image = image.to_string();
            let again = if is_tag { "tag" } else { "import" };
            return DamagedImportSnafu { path, what, image, again }.build();
        }
        DamagedSnafu { path, what, image: self.label(&image.reference(), image.version(), image.arch()) }
            .build()
    }

    /// The damage of a layer's record, where the layer belongs to an image and can be fetched again.
    fn in_image(&self, error: ImageError, image: &Image) -> ImageError {
        let (path, what) = match error {
            ImageError::DamagedLayer { path, what } => (path, what),
            ImageError::NoLayer { id, folder } => (folder.join(id), "it is missing".to_owned()),
            other => return other,
        };
        self.damage(path, what, image)
    }

    /// The shortest name by which the image is pulled again.
    fn label(&self, exact: &ImageRef, version: ImageVersion, arch: Arch) -> String {
        let short = exact.name().as_str();
        let newest = short.parse().ok().and_then(|short| self.catalog.find(&short, arch));
        if newest.is_some_and(|spec| spec.version == version) { short.to_owned() } else { exact.to_string() }
    }

    /// The folders of all names.
    pub(super) fn folders(&self) -> Result<Vec<PathBuf>> {
        let names = files::names_in(&self.images)?.into_iter().filter(|name| !name.starts_with('.'));
        Ok(names.map(|name| self.images.join(name)).filter(|path| path.is_dir()).collect())
    }

    /// Where it is recorded what is trusted on first use.
    pub(super) fn trust(&self) -> PathBuf {
        self.images.join(".trusted")
    }

    /// The lock that whoever makes images shares, and that whoever removes what no image needs has alone.
    pub(super) fn work_lock(&self) -> PathBuf {
        self.images.join(".work.lock")
    }

    /// Where an image is, or would be.
    pub(super) fn folder_of(&self, name: &str, version: ImageVersion, arch: Arch) -> PathBuf {
        self.images.join(name).join(format!("{version}-{arch}"))
    }

    /// The image in a folder; `None` if there is none.
    pub(super) fn load(&self, folder: &Path) -> Result<Option<Image>> {
        let path = folder.join(METADATA);
        let bytes = match files::read(&path, record::LARGEST)? {
            Some(bytes) => bytes,
            None if folder.is_dir() => return self.damaged_record(&path, "it is missing"),
            None => return Ok(None),
        };
        let metadata: Metadata = match record::from_bytes(&bytes) {
            Ok(metadata) => metadata,
            Err(Refusal::Newer) => return NewerSnafu { path }.fail(),
            Err(Refusal::Damaged(what)) => return self.damaged_record(&path, what),
        };
        let own = self.folder_of(metadata.name.as_str(), metadata.version, metadata.arch);
        if own != folder || !metadata.files.iter().any(|record| record.name == KERNEL) {
            return self.damaged_record(&path, "it describes another image");
        }
        Ok(Some(Image { folder: folder.to_owned(), metadata }))
    }

    /// The error for a `metadata.json` that cannot be believed: only the folder's name tells which image it is.
    fn damaged_record<T>(&self, path: &Path, what: &str) -> Result<T> {
        let folder = path.parent().unwrap_or(path);
        let in_catalog = named_by(folder).and_then(|(image, arch)| {
            let version = self.catalog.find(&image, arch)?.version;
            Some(self.label(&image, version, arch))
        });
        if let Some(image) = in_catalog {
            return DamagedSnafu { path, what, image }.fail();
        }
        let image = named_by(folder).map(|(image, _)| image.to_string()).unwrap_or_default();
        DamagedImportSnafu { path, what, image, again: "make" }.fail()
    }

    /// What there is for an architecture, in a line.
    pub(super) fn known(&self, arch: Arch) -> String {
        let mut known: Vec<String> = self
            .catalog
            .images
            .iter()
            .filter(|spec| spec.arch == arch)
            .map(|spec| {
                let [major, minor, _] = spec.version.release();
                format!("{}:{major}.{minor}", spec.name)
            })
            .collect();
        known.extend(
            self.list().unwrap_or_default().iter().filter(|image| image.arch() == arch).map(Image::to_string),
        );
        known.sort();
        known.dedup();
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    }
}

/// The image that a folder's name tells of.
fn named_by(folder: &Path) -> Option<(ImageRef, Arch)> {
    let name: ImageName = folder.parent()?.file_name()?.to_str()?.parse().ok()?;
    let build = folder.file_name()?.to_str()?;
    Arch::ALL.into_iter().find_map(|arch| {
        let version: ImageVersion = build.strip_suffix(&format!("-{arch}"))?.parse().ok()?;
        Some((ImageRef::exact(name.clone(), version), arch))
    })
}
