//! An import: a disk that somebody else made becomes an image that boots directly, though nothing was installed in it.
//!
//! The parts: `unpack` gets the disk out of what it is packed in, `system` finds the root file system, `kernel` the
//! kernel, `modules` its modules where they are not on the disk. Everything is made in a partial folder and gets its
//! name when it is complete, as in a pull.

mod cpio;
mod kernel;
mod modules;
mod refer;
mod system;
mod unpack;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use snafu::{OptionExt, ResultExt};
use vmm_disk::{ForeignDisk, Format, open_foreign};

pub use self::refer::BaseFile;
pub(super) use self::refer::is_reserved;

use self::kernel::FoundKernel;
use self::modules::ModuleSource;
use self::system::System;
use super::customise;
use super::digest::Digest;
use super::error::{DamagedSnafu, DiskSnafu, ImportSnafu, Result, StorageSnafu};
use super::files;
use super::image::{Image, KERNEL, MODULES, Metadata};
use super::kernel_modules::{self, Extras};
use super::layers::Layer;
use super::profile::{BootProfile, RootFileSystem};
use super::progress::{Progress, Stage, Step};
use super::pull;
use super::record::FileRecord;
use super::reference::{ImageName, ImageRef};
use super::root::DISK;
use super::store::ImageStore;
use super::transform::{self, Bounds, Job};
use super::verify::{self, Damage, Thoroughness};
use super::version::ImageVersion;
use crate::arch::Arch;

/// This much of the store's disk stays free.
const ROOM_LEFT: u64 = 256 << 20;

/// What is imported, and as what.
#[derive(Clone, Debug)]
pub struct Import {
    /// The disk, perhaps packed.
    pub file: PathBuf,
    /// What the image is called, and its release or version. Without, the file's name and the system on it tell.
    pub name: Option<ImageRef>,
    /// The machines that it is for.
    pub arch: Arch,
    /// The kernel, where it is not the one on the disk.
    pub kernel: Option<PathBuf>,
    /// An initial file system that holds the kernel's modules.
    pub initrd: Option<PathBuf>,
    /// A folder or a tar archive that holds the kernel's modules.
    pub modules: Option<PathBuf>,
}

/// An import that succeeded.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// What was found.
    pub found: SystemFound,
}

/// What an import found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SystemFound {
    /// The format of the disk, and what it was packed in.
    pub format: String,
    /// The files that the disk was read from: the one that was named, and those that it builds on.
    pub files: Vec<PathBuf>,
    /// The kind of partition table.
    pub partition_table: String,
    /// Where the guest finds the root.
    pub root: String,
    /// The system, as it calls itself.
    pub system: String,
    /// The kernel, and where it was.
    pub kernel: String,
}

impl ImageStore {
    /// Makes an image of a disk, which is only read. What is found on it decides how it boots.
    ///
    /// However it ends, nothing stays that looks complete and is not.
    pub fn import(&self, import: &Import, progress: &dyn Progress) -> Result<Imported> {
        let name = name_of(import)?;
        let in_catalog = self.catalog.has(name.as_str());
        let why = format!("{name} is an image of the catalog: choose another name with --name");
        ensure_import(!in_catalog, &import.file, || why)?;
        let why = format!("{name} is what the image of a file is called: choose another name with --name");
        ensure_import(!is_reserved(name.as_str()), &import.file, || why)?;
        let place = self.images.join(name.as_str()).join("import");
        let label = name.to_string();
        let locks = pull::lock_for_work(self, &place, &label, progress)?;
        pull::prune_remains(self, false)?;
        let partial = pull::fresh_partial(&place)?;
        let work = Work { store: self, import, name, label: &label, progress, partial: &partial };
        work.make().inspect_err(|_| {
            // The first error is the one to tell.
            let _ = files::remove_folder(&partial);
            drop(locks);
            pull::forget_place(self, &place);
        })
    }
}

/// The name that is asked for, or the file's own, without what tells of its format.
fn name_of(import: &Import) -> Result<ImageName> {
    if let Some(name) = &import.name {
        return Ok(name.name().clone());
    }
    let file = import.file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut stem = file.as_str();
    while let Some((rest, end)) = stem.rsplit_once('.') {
        if !unpack::ENDINGS.contains(&end) {
            break;
        }
        stem = rest;
    }
    let name = stem.parse().ok();
    name.with_context(|| ImportSnafu {
        path: &import.file,
        why: "its name is no name of an image: give one with --name",
    })
}

fn ensure_import(good: bool, path: &Path, why: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { ImportSnafu { path, why: why() }.fail() }
}

/// An import at work.
struct Work<'a> {
    store: &'a ImageStore,
    import: &'a Import,
    name: ImageName,
    label: &'a str,
    progress: &'a dyn Progress,
    partial: &'a Path,
}

impl Work<'_> {
    fn make(&self) -> Result<Imported> {
        let workshop = self.partial.join("unpacked");
        files::make_folder(&workshop)?;
        let job = Job { image: self.label, progress: self.progress, bounds: self.bounds()? };
        let unpacked = unpack::unpack(&self.import.file, &workshop, job)?;
        let path = &self.import.file;
        let foreign = open_foreign(&unpacked.path).map_err(Into::into).context(DiskSnafu { path })?;
        self.tell("root file system");
        let system = system::find(&foreign.disk, path)?;
        let stamped = self.stamped(&system)?;
        self.tell("kernel");
        let modules = ModuleSource::open(self.import, &workshop, job)?;
        let kernel = kernel::find(self.import, &system, modules.as_ref())?;
        let device =
            system.partition.map_or_else(|| DISK.to_owned(), |found| format!("{DISK}{}", found.number));
        let profile = BootProfile {
            root: RootFileSystem { device, ..RootFileSystem::default() },
            ..BootProfile::default()
        };
        let records = self.write_files(&kernel, &system, modules.as_ref(), &profile)?;
        // What was unpacked takes its room by now.
        let job = Job { bounds: self.bounds()?, ..job };
        let (digest, layer) = self.layer(&foreign, job)?;
        let backing = self.backing_files(&foreign)?;
        let found = SystemFound {
            format: unpacked.describe(foreign.format),
            files: [path].into_iter().chain(foreign.files.iter().skip(1)).cloned().collect(),
            partition_table: system.table.to_string(),
            root: profile.root.device.clone(),
            system: system.release.name.clone(),
            kernel: format!("{} ({})", kernel.release, kernel.place),
        };
        let release = stamped.map_or(system.release.version, |stamped| stamped.release());
        // The foreign disk, and what it was unpacked to, are not needed any more.
        drop((foreign, system, modules));
        files::remove_folder(&workshop)?;
        let file = self.import.file.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{file} ({}), as qcow2", found.format);
        let size = layer.content.as_ref().map_or(0, |content| content.size);
        let mut origin = vec![FileRecord { name, size, sha256: digest }];
        origin.extend(backing);
        let version = self.version(digest, release);
        let image = self.publish((version, stamped), kernel.release, profile, (records, origin), layer)?;
        Ok(Imported { image, found })
    }

    /// No more is stored than there is room for.
    fn bounds(&self) -> Result<Bounds> {
        let path = &self.store.images;
        let space = rustix::fs::statvfs(path)
            .map_err(std::io::Error::from)
            .context(StorageSnafu { action: "measure the space in", path })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        Ok(Bounds { length: vmm_disk::LARGEST_FOREIGN_DISK, stored: free.saturating_sub(ROOM_LEFT) })
    }

    /// Writes the kernel and the modules.
    fn write_files(
        &self,
        kernel: &FoundKernel,
        system: &System,
        modules: Option<&ModuleSource>,
        profile: &BootProfile,
    ) -> Result<Vec<FileRecord>> {
        let bytes = kernel.kernel.bytes();
        files::write_new(&self.partial.join(KERNEL), bytes)?;
        let record =
            FileRecord { name: KERNEL.to_owned(), size: bytes.len() as u64, sha256: Digest::of(bytes) };
        self.tell("kernel modules");
        let folder = self.partial.join(MODULES);
        // What the disk does not have can be had only now.
        let (source, extras): (&dyn kernel_modules::ModuleFiles, _) = match modules {
            Some(modules) => (modules, Extras::ALL),
            None => (&system.root, Extras::default()),
        };
        let place = (self.import.file.as_path(), self.label);
        let wanted = (profile.root.file_system.as_str(), extras);
        let mut records = kernel_modules::extract(source, &kernel.release, wanted, &folder, place)?;
        records.insert(0, record);
        if let Some(Damage { path, what }) = verify::verify(self.partial, &records, Thoroughness::Full)? {
            return DamagedSnafu { path, what, image: self.label }.fail();
        }
        Ok(records)
    }

    /// The disk as a base layer. One that is there with the same contents, and good, stays.
    fn layer(&self, foreign: &ForeignDisk, job: Job<'_>) -> Result<(Digest, Layer)> {
        let disk = self.partial.join("disk");
        transform::convert(&*foreign.disk, &disk, job)?;
        let storage = StorageSnafu { action: "read", path: &disk };
        let file = File::open(&disk).context(storage)?;
        let seen = |done| self.step(Stage::Verifying, "disk", done);
        let (sha256, size) = Digest::of_reader(file, seen).context(storage)?;
        let layers = &self.store.layers;
        if let Some(there) = layers.base(sha256)
            && let (Some(record), Some(folder)) = (&there.content, there.path.parent())
            && verify::verify(folder, std::slice::from_ref(record), Thoroughness::Full)?.is_none()
        {
            files::remove_file(&disk)?;
            return Ok((sha256, there));
        }
        let layer = layers.adopt(&disk, Format::Qcow2, (sha256, size))?;
        if let (Some(content), Some(folder)) = (&layer.content, layer.path.parent()) {
            verify::verify(folder, std::slice::from_ref(content), Thoroughness::Remembered)?;
        }
        Ok((sha256, layer))
    }

    /// The files that the disk builds on, as they are at this moment: each is locked against writers.
    fn backing_files(&self, foreign: &ForeignDisk) -> Result<Vec<FileRecord>> {
        let record = |path: &PathBuf| {
            let storage = StorageSnafu { action: "read", path };
            let seen = |done| self.step(Stage::Verifying, "backing file", done);
            let (sha256, size) =
                File::open(path).and_then(|file| Digest::of_reader(file, seen)).context(storage)?;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(FileRecord { name: format!("{file}, which the disk builds on"), size, sha256 })
        };
        foreign.files.iter().skip(1).map(record).collect()
    }

    /// Writes the record, and gives the folder its name.
    fn publish(
        &self,
        (version, system): (ImageVersion, Option<ImageVersion>),
        kernel_release: String,
        profile: BootProfile,
        (files, origin): (Vec<FileRecord>, Vec<FileRecord>),
        layer: Layer,
    ) -> Result<Image> {
        let metadata = Metadata {
            name: self.name.clone(),
            version,
            arch: self.import.arch,
            kernel_release,
            layer: layer.id,
            files,
            profile,
            pulled_ms: Some(pull::now_ms()),
            catalog: None,
            customise: None,
            customised: None,
            system,
            vm: None,
            origin,
        };
        let folder = self.store.folder_of(self.name.as_str(), version, self.import.arch);
        let _locks = pull::lock_for_work(self.store, &folder, self.label, self.progress)?;
        pull::publish(self.store, metadata, self.partial)
    }

    /// The version that the disk says it is of, if it was exported from a store. Who asks for another release of it is
    /// mistaken.
    fn stamped(&self, system: &System) -> Result<Option<ImageVersion>> {
        let stamped = customise::system_version(&system.root)?;
        if let (Some(stamped), Some(asked)) = (stamped, &self.import.name) {
            customise::check_system(asked.version_for(stamped), stamped, &self.import.file)?;
        }
        Ok(stamped)
    }

    /// The version that is asked for, or one of the release that is asked for or that the system tells, of today.
    fn version(&self, digest: Digest, release: [u32; 3]) -> ImageVersion {
        let revision = u32::from_str_radix(&digest.to_string()[..7], 16).unwrap_or_default();
        let build = ImageVersion::from_parts(release, today(), revision);
        self.import.name.as_ref().map_or(build, |asked| asked.version_for(build))
    }

    fn tell(&self, subject: &str) {
        self.step(Stage::Unpacking, subject, 0);
    }

    fn step(&self, stage: Stage, subject: &str, done: u64) {
        self.progress.step(Step { stage, subject, done, total: None });
    }
}

/// Today's date in Greenwich as the digits of YYYYMMDD.
pub(super) fn today() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    crate::home::date_of(since.as_secs() / 86400)
}

/// For the fuzz targets: finds a system, and the kernels in it.
#[cfg(feature = "testing")]
pub(super) fn look_around(disk: &std::sync::Arc<dyn vmm_disk::DiskImage>) -> bool {
    let path = Path::new("disk");
    let Ok(system) = system::find(disk, path) else { return false };
    let import = Import {
        file: path.to_owned(),
        name: None,
        arch: Arch::X86_64,
        kernel: None,
        initrd: None,
        modules: None,
    };
    let _ = kernel::find(&import, &system, None);
    true
}

/// For the fuzz targets: lists the files of an initial file system.
#[cfg(feature = "testing")]
pub(super) fn list_initial_files(path: &Path) {
    if let Ok(file) = std::fs::File::open(path) {
        let _ = cpio::members(&file);
    }
}

#[cfg(test)]
mod tests;
