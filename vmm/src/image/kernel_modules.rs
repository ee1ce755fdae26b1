//! The kernel modules of an image: taken out of its root file system once, put into initial file systems often.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use snafu::ResultExt;
use twox_hash::XxHash64;

use super::configuration::in_boot;
use super::digest::{Digest, Hasher};
use super::error::{
    DamagedSnafu, ImageError, InitramfsSnafu, ModulesSnafu, Result, RootContentsSnafu, StorageSnafu,
};
use super::files;
use super::image::{Image, MODULES};
use super::record::FileRecord;
use super::root::RootFileSystem;
use crate::boot::{
    Initramfs, ModuleIndex, ModulePlan, PlannedModule, Stage, Want, check_release, takes_unsigned,
    without_signature,
};

/// `depmod`'s files; a distribution's largest kernel has 2 MiB of them.
const LARGEST_LIST: u64 = 8 << 20;

/// A module, unpacked. The largest that there are are drivers for graphics, which nobody needs here.
const LARGEST_MODULE: u64 = 64 << 20;

const LISTS: [&str; 2] = ["modules.dep", "modules.builtin"];

/// What a machine has beside what every machine has, as far as it decides on its modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The guest may run virtual machines itself.
    pub nested: bool,
    /// A balloon.
    pub balloon: bool,
    /// What is written to its root goes elsewhere.
    pub overlay: bool,
    /// Its kernel is told to refuse modules without a signature.
    pub signed: bool,
}

impl Extras {
    /// Everything that a machine may have.
    pub(super) const ALL: Self = Self { nested: true, balloon: true, overlay: true, signed: false };
}

/// What a machine loads, in order. The transports come first, where they are no part of the kernel: devices are found
/// through them.
fn wanted(extras: Extras, file_system: &str) -> Vec<(Stage, Want<'_>)> {
    let mut wanted = vec![
        (Stage::Vsock, Want::Optional("virtio_mmio")),
        (Stage::Vsock, Want::Optional("virtio_pci")),
        (Stage::Vsock, Want::Required("vmw_vsock_virtio_transport")),
        (Stage::Root, Want::Required("virtio_blk")),
        // Kernels before 6.14 have ext4 ask for this by another name than its own, which no list of needs shows.
        (Stage::Root, Want::Optional("crc32c_generic")),
        (Stage::Root, Want::Required(file_system)),
    ];
    if extras.overlay {
        wanted.push((Stage::Root, Want::Optional("overlay")));
    }
    if extras.nested {
        // The agent chooses the one for its processor.
        wanted.extend(["kvm_amd", "kvm_intel"].map(|name| (Stage::Ready, Want::Optional(name))));
    }
    // In the order of their stages: what is needed by several is loaded for the first.
    wanted.push((Stage::Late, Want::Optional("virtio_rng")));
    if extras.balloon {
        wanted.push((Stage::Late, Want::Optional("virtio_balloon")));
    }
    wanted
}

/// Where the modules of a kernel come from. Paths begin with [`modules_of`] the kernel's release.
pub(super) trait ModuleFiles {
    /// Whether there is something of this name.
    fn has(&self, path: &str) -> Result<bool>;

    /// A whole file, unpacked. Neither form may be larger than `limit`.
    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>>;
}

impl ModuleFiles for RootFileSystem {
    fn has(&self, path: &str) -> Result<bool> {
        RootFileSystem::has(self, path)
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        RootFileSystem::read(self, path, limit)
    }
}

/// Puts the modules that machines with these extras load, and `depmod`'s lists, into a new folder, and gives a record of
/// each file as seen from the folder above. `disk` and `image` are for messages.
pub(super) fn extract(
    root: &dyn ModuleFiles,
    release: &str,
    (file_system, extras): (&str, Extras),
    folder: &Path,
    (disk, image): (&Path, &str),
) -> Result<Vec<FileRecord>> {
    let source = modules_of(release);
    if !root.has(&source)? {
        return RootContentsSnafu { path: disk, what: format!("no modules for its kernel {release}") }.fail();
    }
    files::make_folder(folder)?;
    let mut records = Vec::new();
    let mut keep = |name: &str, contents: &[u8]| {
        files::write_new(&folder.join(name), contents)?;
        let (sha256, size) = (Digest::of(contents), contents.len() as u64);
        records.push(FileRecord { name: format!("{MODULES}/{name}"), size, sha256 });
        Ok(())
    };
    let mut lists = Vec::new();
    for list in LISTS {
        let text = root.read(&format!("{source}/{list}"), LARGEST_LIST)?;
        let what = format!("no text in {source}/{list}");
        let text = String::from_utf8(text).or_else(|_| RootContentsSnafu { path: disk, what }.fail())?;
        keep(list, text.as_bytes())?;
        lists.push(text);
    }
    let modules = || ModulesSnafu { image };
    let plan = |extras| plan(&lists[0], &lists[1], &wanted(extras, file_system)).with_context(|_| modules());
    let usual = plan(Extras::default())?;
    for module in plan(extras)?.modules() {
        let path = format!("{source}/{}", module.path);
        // A machine does without what only extras want.
        if !usual.modules().iter().any(|usual| usual.path == module.path) && !root.has(&path)? {
            continue;
        }
        let contents = root.read(&path, LARGEST_MODULE)?;
        check_release(&module.file_name, &contents, release).with_context(|_| modules())?;
        keep(&module.file_name, &contents)?;
    }
    files::sync_folder(folder)?;
    Ok(records)
}

/// Where a root file system has the modules of a kernel.
pub(super) fn modules_of(release: &str) -> String {
    format!("/lib/modules/{release}")
}

fn plan(
    dependencies: &str,
    built_in: &str,
    wanted: &[(Stage, Want<'_>)],
) -> Result<ModulePlan, crate::boot::ModuleError> {
    // Lists that are both empty are those of a kernel that needs no modules.
    let wanted = if dependencies.is_empty() && built_in.is_empty() { &[] } else { wanted };
    ModuleIndex::parse(dependencies, built_in)?.plan(wanted)
}

/// Makes the initial file system for an image and an agent, or finds the one that was made before.
///
/// Its name is `initramfs-<of what>-<its SHA-256>.cpio`: the first part tells which one it is, the second whether it is
/// still what was written. Without `extras` it has no modules: for a kernel that is not the image's. `root` opens the
/// image's root file system, where the modules are that few machines load.
pub(super) fn initramfs(
    image: &Image,
    agent: &[u8],
    extras: Option<Extras>,
    root: &dyn Fn() -> Result<RootFileSystem>,
) -> Result<(PathBuf, FileRecord)> {
    let key = key(image, agent, extras);
    let prefix = format!("{INITRAMFS}{key}-");
    let names = files::names_in(&image.folder)?;
    if let Some(record) = names.iter().find_map(|name| record_of(&image.folder, name, &prefix)) {
        return Ok((image.folder.join(&record.name), record));
    }
    let partial = files::own_partial_of(&image.folder.join(format!("{INITRAMFS}{key}")));
    let made = build(image, agent, extras, root, &partial).and_then(|(sha256, size)| {
        let name = format!("{prefix}{sha256}{INITRAMFS_END}");
        let path = image.folder.join(&name);
        files::rename(&partial, &path)?;
        Ok((path, FileRecord { name, size, sha256 }))
    });
    match &made {
        Ok((_, record)) => remove_stale(&image.folder, &names, &record.name),
        Err(_) => drop(files::remove_file(&partial)),
    }
    made
}

const INITRAMFS: &str = "initramfs-";
const INITRAMFS_END: &str = ".cpio";

/// Everything that the contents depend on, in one short name.
fn key(image: &Image, agent: &[u8], extras: Option<Extras>) -> String {
    let mut hasher = Hasher::new();
    hasher.update(&Initramfs::LAYOUT.to_le_bytes());
    // It only tells agents apart, and quickly: each start computes it.
    hasher.update(&XxHash64::oneshot(0, agent).to_le_bytes());
    if let Some(extras) = extras {
        // The plan follows from the lists and from what this program wants.
        hasher.update(format!("{:?}", wanted(extras, &image.metadata.profile.root.file_system)).as_bytes());
        hasher.update(&[u8::from(extras.signed)]);
    }
    hasher.finish().0.short()
}

/// Every initial file system in an image's folder, by its name.
pub(super) fn initramfs_records(folder: &Path) -> Result<Vec<FileRecord>> {
    let names = files::names_in(folder)?;
    let records = names.iter().filter_map(|name| {
        let (_, digest) = name.strip_prefix(INITRAMFS)?.split_once('-')?;
        record_of(folder, name, name.strip_suffix(digest)?)
    });
    Ok(records.collect())
}

fn record_of(folder: &Path, name: &str, prefix: &str) -> Option<FileRecord> {
    let sha256 = name.strip_prefix(prefix)?.strip_suffix(INITRAMFS_END)?.parse().ok()?;
    let size = std::fs::metadata(folder.join(name)).ok()?.len();
    Some(FileRecord { name: name.to_owned(), size, sha256 })
}

fn build(
    image: &Image,
    agent: &[u8],
    extras: Option<Extras>,
    root: &dyn Fn() -> Result<RootFileSystem>,
    partial: &Path,
) -> Result<(Digest, u64)> {
    let name = image.to_string();
    let mut initramfs = Initramfs::new(agent);
    if let Some(extras) = extras {
        add_modules(&mut initramfs, image, extras, root)?;
    }
    files::remove_file(partial)?;
    let file = files::create(partial)?;
    let mut hashed = Hashed { file: BufWriter::new(file), hasher: Hasher::new() };
    initramfs.write(&mut hashed).context(InitramfsSnafu { image: &name })?;
    let file = hashed.file.into_inner().map_err(std::io::IntoInnerError::into_error);
    files::sync(&file.context(StorageSnafu { action: "write", path: partial })?, partial)?;
    Ok(hashed.hasher.finish())
}

/// Adds the modules of a machine: those of every machine from the image's folder, the others from its root file system.
fn add_modules(
    initramfs: &mut Initramfs<'_>,
    image: &Image,
    extras: Extras,
    root: &dyn Fn() -> Result<RootFileSystem>,
) -> Result<()> {
    let name = image.to_string();
    let folder = image.folder.join(MODULES);
    let list = |list: &str| {
        let bytes = files::read(&folder.join(list), LARGEST_LIST)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (dependencies, built_in) = (list(LISTS[0])?, list(LISTS[1])?);
    let plan = |extras| {
        let wanted = wanted(extras, &image.metadata.profile.root.file_system);
        plan(&dependencies, &built_in, &wanted).context(ModulesSnafu { image: &name })
    };
    let usual = plan(Extras::default())?;
    let is_usual = |module: &PlannedModule| usual.modules().iter().any(|usual| usual.path == module.path);
    let planned = plan(extras)?;
    // Signatures stay where it cannot be seen that nobody asks for them.
    let cannot_tell =
        |error: &ImageError| tracing::warn!(%image, %error, "kernel modules keep their signatures");
    let mut opened = if extras.signed { None } else { root().inspect_err(cannot_tell).ok() };
    let drops_signatures =
        opened.as_ref().is_some_and(|root| takes_unsigned(&configuration(root, image.kernel_release())));
    for module in planned.modules() {
        let path = folder.join(&module.file_name);
        let contents = match files::read(&path, LARGEST_MODULE)? {
            Some(contents) => Some(contents),
            None if is_usual(module) => {
                return DamagedSnafu { path, what: "it is missing", image: name }.fail();
            }
            None => {
                let root = match &opened {
                    Some(root) => root,
                    None => opened.insert(root()?),
                };
                from_root(root, image, module)?
            }
        };
        if let Some(mut contents) = contents {
            if drops_signatures {
                contents.truncate(without_signature(&contents).len());
            }
            initramfs
                .add_module(module.stage, &module.file_name, contents)
                .context(InitramfsSnafu { image: &name })?;
        }
    }
    Ok(())
}

/// What the image's kernel was built with, if its `/boot` says so.
fn configuration(root: &RootFileSystem, release: &str) -> String {
    let bytes = in_boot(root, release).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A module that a machine does without, where the image has it: it may have been made smaller without telling its
/// lists.
fn from_root(root: &RootFileSystem, image: &Image, module: &PlannedModule) -> Result<Option<Vec<u8>>> {
    let release = image.kernel_release();
    let path = format!("{}/{}", modules_of(release), module.path);
    if !root.has(&path)? {
        tracing::warn!(%image, path, "a kernel module is not there");
        return Ok(None);
    }
    let contents = root.read(&path, LARGEST_MODULE)?;
    let foreign = || ModulesSnafu { image: image.to_string() };
    check_release(&module.file_name, &contents, release).with_context(|_| foreign())?;
    Ok(Some(contents))
}

/// Writes and computes the digest at once.
struct Hashed {
    file: BufWriter<std::fs::File>,
    hasher: Hasher,
}

impl std::io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// How long one that was made for another agent stays: another version of this program may be about to open it.
const STALE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// Removes what was made for other agents and by the dead. A machine that has one open keeps it.
fn remove_stale(folder: &Path, names: &[String], kept: &str) {
    for name in names.iter().filter(|name| name.starts_with(INITRAMFS) && *name != kept) {
        let path = folder.join(name);
        let age = std::fs::metadata(&path).and_then(|found| found.modified()).map(|time| time.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > STALE))
            && let Err(error) = files::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "an old initial file system stays");
        }
    }
}
