//! A disk file that machines boot from where it lies: an image whose base layer is a link to the file.
//!
//! What boots it is found as in an import, and kept by the content of the file. The file is never written; a machine
//! whose file has changed since does not start any more, as with every base layer.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::slice;

use snafu::{OptionExt, ResultExt};
use vmm_disk::{Format, open_foreign};

use super::kernel;
use super::modules::ModuleSource;
use super::{Import, Work, ensure_import, system};
use crate::arch::Arch;
use crate::image::digest::Digest;
use crate::image::error::{DiskSnafu, ImportSnafu, Result, StorageSnafu};
use crate::image::files;
use crate::image::image::Image;
use crate::image::layers::Layer;
use crate::image::profile::{BootProfile, RootFileSystem};
use crate::image::progress::{Progress, Stage, Step};
use crate::image::pull;
use crate::image::record::FileRecord;
use crate::image::reference::ImageName;
use crate::image::root::DISK;
use crate::image::store::ImageStore;
use crate::image::transform::Job;
use crate::image::verify::{self, Thoroughness};
use crate::image::version::ImageVersion;

/// What a qcow2 file begins with.
const QCOW2: &[u8] = b"QFI\xfb";

/// How the names of such images begin. A user can give no such name to an image of another kind: see [`is_reserved`].
const NAME: &str = "file-";

/// A disk file of the user's that machines boot from, and what boots it where that is not on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFile {
    /// The file, raw or qcow2, which is only read.
    pub file: PathBuf,
    /// Its format; without, a qcow2 file is known by its first bytes, and what is raw has to be called so.
    pub format: Option<Format>,
    /// The kernel, where it is not the one on the disk.
    pub kernel: Option<PathBuf>,
    /// An initial file system that holds the kernel's modules.
    pub initrd: Option<PathBuf>,
    /// A folder or a tar archive that holds the kernel's modules.
    pub modules: Option<PathBuf>,
}

/// Whether a name is that of the image of a file.
pub(in crate::image) fn is_reserved(name: &str) -> bool {
    name.strip_prefix(NAME)
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl BaseFile {
    /// A file whose format its first bytes tell, and which has all that boots it.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), format: None, kernel: None, initrd: None, modules: None }
    }

    fn has_all(&self) -> bool {
        self.kernel.is_none() && self.initrd.is_none() && self.modules.is_none()
    }

    /// Its format, which its first bytes may tell: not raw, for a guest that writes a raw disk can make it look like
    /// anything, and whoever calls that raw means it.
    fn format_of(&self, file: &Path) -> Result<Format> {
        let storage = StorageSnafu { action: "read", path: file };
        let is_file = fs::metadata(file).context(storage)?.is_file();
        ensure_import(is_file, file, || "it is not a file".to_owned())?;
        let mut first = Vec::new();
        File::open(file)
            .and_then(|file| file.take(QCOW2.len() as u64).read_to_end(&mut first))
            .context(storage)?;
        let looks = if first == QCOW2 { Format::Qcow2 } else { Format::Raw };
        match self.format {
            Some(Format::Raw) => Ok(Format::Raw),
            Some(Format::Qcow2) | None if looks == Format::Qcow2 => Ok(Format::Qcow2),
            Some(_) => ImportSnafu { path: file, why: "it is no qcow2 image" }.fail(),
            None => {
                let why = "it is no qcow2 image: if it is raw, say --format raw; any other format is imported once, \
                           with `vmm images import`";
                ImportSnafu { path: file, why }.fail()
            }
        }
    }
}

impl ImageStore {
    /// The image of a disk file, which stays where it is: found, or made.
    pub fn refer(&self, base: &BaseFile, arch: Arch, progress: &dyn Progress) -> Result<Image> {
        let path = fs::canonicalize(&base.file).context(StorageSnafu { action: "find", path: &base.file })?;
        let format = base.format_of(&path)?;
        let layer = self.layer_of_file(&path, format, progress)?;
        let name = name_for(layer.id.as_str());
        if base.has_all()
            && let Some(image) = self.list()?.into_iter().find(|image| {
                image.name().as_str() == name && image.arch() == arch && *image.layer() == layer.id
            })
        {
            return Ok(image);
        }
        let import = Import {
            file: path,
            name: None,
            arch,
            kernel: base.kernel.clone(),
            initrd: base.initrd.clone(),
            modules: base.modules.clone(),
        };
        let place = self.images.join(&name).join("import");
        let label = base.file.display().to_string();
        let locks = pull::lock_for_work(self, &place, &label, progress)?;
        let partial = pull::fresh_partial(&place)?;
        let name = parse_name(&name, &import.file)?;
        let work = Work { store: self, import: &import, name, label: &label, progress, partial: &partial };
        let made = work.make_for_file(layer, format, base.has_all());
        drop(locks);
        made.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = files::remove_folder(&partial);
        })
    }

    /// The layer that leads to a file with these contents. One whose file is gone or has changed leads to this one then,
    /// which is the same.
    fn layer_of_file(&self, path: &Path, format: Format, progress: &dyn Progress) -> Result<Layer> {
        let here = |layer: &Layer| fs::read_link(&layer.path).is_ok_and(|target| target == path);
        let good = |layer: &Layer| -> Result<bool> {
            let (Some(record), Some(folder)) = (&layer.content, layer.path.parent()) else {
                return Ok(false);
            };
            let records = slice::from_ref(record);
            let damage =
                verify::verify_named(folder, records, Thoroughness::Remembered, verify::INDEX, progress)?;
            Ok(damage.is_none())
        };
        // One that is remembered as it is costs no reading.
        for layer in self.layers.list()?.into_iter().filter(|layer| here(layer) && layer.format == format) {
            if good(&layer)? {
                return Ok(layer);
            }
        }
        let storage = StorageSnafu { action: "read", path };
        let file = File::open(path).context(storage)?;
        let total = Some(file.metadata().context(storage)?.len());
        let subject = &path.file_name().unwrap_or_default().to_string_lossy();
        let tell = |done| progress.step(Step { stage: Stage::Verifying, subject, done, total });
        let content = Digest::of_reader(file, tell).context(storage)?;
        let id = self.layers.id_of_file(format, content.0);
        if let Ok(layer) = self.layers.layer(&id)
            && good(&layer)?
        {
            return Ok(layer);
        }
        self.layers.refer(path, format, content)
    }
}

fn name_for(digest: &str) -> String {
    format!("{NAME}{}", digest.get(..16).unwrap_or_default())
}

fn parse_name(name: &str, path: &Path) -> Result<ImageName> {
    name.parse().ok().with_context(|| ImportSnafu { path, why: "it has no digest" })
}

impl Work<'_> {
    /// Makes the image of a file that is a layer already.
    fn make_for_file(mut self, layer: Layer, format: Format, has_all: bool) -> Result<Image> {
        let workshop = self.partial.join("unpacked");
        files::make_folder(&workshop)?;
        let job = Job { image: self.label, progress: self.progress, bounds: self.bounds()? };
        let path = &self.import.file;
        // A raw disk is one, whatever its first bytes look like.
        let disk = match format {
            Format::Raw => vmm_disk::open_chain(&[layer.spec()], true).map_err(Into::into),
            Format::Qcow2 => open_foreign(path).map_err(Into::into).and_then(|foreign| {
                if foreign.files.len() > 1 {
                    let why = "it builds on another file: import it with `vmm images import`";
                    return Err(why.into());
                }
                Ok(foreign.disk)
            }),
        };
        let disk = disk.context(DiskSnafu { path })?;
        let system = system::find(&disk, path)?;
        let stamped = self.stamped(&system)?;
        self.tell("kernel");
        let modules = ModuleSource::open(self.import, &workshop, job)?;
        let kernel = kernel::find(self.import, &system, modules.as_ref())?;
        let partition = system.partition.map(|found| found.number.to_string()).unwrap_or_default();
        let root = RootFileSystem { device: format!("{DISK}{partition}"), ..RootFileSystem::default() };
        let profile = BootProfile { root, ..BootProfile::default() };
        let records = self.write_files(&kernel, &system, modules.as_ref(), &profile)?;
        let release = stamped.map_or(system.release.version, |stamped| stamped.release());
        drop((disk, system, modules));
        files::remove_folder(&workshop)?;
        if !has_all {
            // Another kernel is another image of the same file.
            let told: String =
                records.iter().map(|record| format!("{} {}\n", record.name, record.sha256)).collect();
            let digest = Digest::of(format!("{}\n{told}", layer.id).as_bytes()).to_string();
            self.name = parse_name(&name_for(&digest), path)?;
        }
        let revision = u32::from_str_radix(&layer.id.as_str()[..7], 16).unwrap_or_default();
        let version = ImageVersion::from_parts(release, FIRST_DAY, revision);
        let size = layer.content.as_ref().map_or(0, |content| content.size);
        let sha256 = layer.content.as_ref().map(|content| content.sha256);
        let sha256 = sha256.with_context(|| ImportSnafu { path, why: "its layer has no digest" })?;
        let origin = vec![FileRecord { name: format!("{}, where it lies", path.display()), size, sha256 }];
        self.publish((version, stamped), kernel.release, profile, (records, origin), layer)
    }
}

/// The date in the version of a file's image, which is drawn from the file alone.
const FIRST_DAY: u32 = 19_700_101;

#[cfg(test)]
mod tests;
