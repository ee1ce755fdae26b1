//! Disk files of the user's: making them, and looking after them while no VM has them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use snafu::ResultExt;
use vmm_disk::{Compacted, Format, LayerInfo, LayerSpec};

use super::DiskSize;
use super::extra::true_path;
use crate::home::Home;
use crate::image::ImageStore;
use crate::sandbox::error::{DiskFileSnafu, Error, SystemSnafu};

/// What a qcow2 file begins with.
const QCOW2: &[u8] = b"QFI\xfb";

/// A disk file of the user's.
///
/// ```no_run
/// use vmm::DiskFile;
///
/// let disk = DiskFile::create("data.qcow2", "20G".parse()?)?;
/// println!("{} bytes on the host", disk.info()?.allocated_size);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    path: PathBuf,
    format: Format,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskCheck {
    /// What is damaged, in words.
    pub damage: Vec<String>,
    /// Space that is lost to the file, without harm.
    pub lost_clusters: u64,
}

impl DiskFile {
    /// Makes an empty disk, of the format that its name tells: `.qcow2`, or `.raw` and `.img`.
    pub fn create(path: impl Into<PathBuf>, size: DiskSize) -> Result<Self, Error> {
        let path = path.into();
        let Some(format) = format_of_name(&path) else {
            let message = format!(
                "name {} so that it tells its format, .qcow2 or .raw, or say --format",
                path.display()
            );
            return Err(Error::Invalid { message });
        };
        Self::create_as(path, format, size)
    }

    /// Makes an empty disk of this format.
    pub fn create_as(path: impl Into<PathBuf>, format: Format, size: DiskSize) -> Result<Self, Error> {
        let path = path.into();
        let make = match format {
            Format::Qcow2 => vmm_disk::create_overlay,
            Format::Raw => vmm_disk::create_raw,
        };
        make(&path, size.bytes()).context(DiskFileSnafu)?;
        Ok(Self { path, format })
    }

    /// A disk that is there, of the format on which its name and its contents agree.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let format = find_format(&path, |looks| format!("--format {looks}"))?;
        Ok(Self { path, format })
    }

    /// A disk that is there, of this format, whatever it looks like.
    pub fn open_as(path: impl Into<PathBuf>, format: Format) -> Self {
        Self { path: path.into(), format }
    }

    /// The name of its format.
    pub fn format_name(&self) -> &'static str {
        name(self.format)
    }

    /// How large it is.
    pub fn info(&self) -> Result<LayerInfo, Error> {
        vmm_disk::inspect(&self.path, self.format).context(DiskFileSnafu)
    }

    /// Makes it larger. The file systems on it are the guest's business.
    pub fn resize(&self, size: DiskSize) -> Result<(), Error> {
        vmm_disk::grow(&self.path, self.format, size.bytes()).context(DiskFileSnafu)
    }

    /// Looks for damage. In a raw file everything is what it is.
    pub fn check(&self) -> Result<DiskCheck, Error> {
        if self.format == Format::Raw {
            return Ok(DiskCheck::default());
        }
        let report = vmm_disk::check_layer(&self.path).context(DiskFileSnafu)?;
        let mut damage = report.findings;
        if report.corruptions > damage.len() as u64 {
            damage.push(format!("{} errors in all", report.corruptions));
        }
        Ok(DiskCheck { damage, lost_clusters: report.leaks })
    }

    /// Gives back to the host what is zero in it, while no VM uses it. What it shows stays the same.
    pub fn compact(&self, home: &Home) -> Result<Compacted, Error> {
        // What an image or a VM knows the bytes of is not written anew.
        let layer = ImageStore::open(home.root())?.layers().leading_to(&true_path(&self.path))?;
        if let Some(id) = layer {
            let message = format!(
                "{} is a part of a VM's disk or of an image, layer {}",
                self.path.display(),
                id.as_str()
            );
            return Err(Error::Invalid { message });
        }
        vmm_disk::compact(&self.path, self.format).context(DiskFileSnafu)
    }

    /// Removes it, if no VM of this home has it, whether it runs or not.
    pub fn remove(self, home: &Home) -> Result<(), Error> {
        if let Some(message) = whose(home, &self.path)? {
            return Err(Error::Invalid { message });
        }
        if is_device(&self.path) {
            let message = format!("{} is a device and no disk file", self.path.display());
            return Err(Error::Invalid { message });
        }
        let layer = LayerSpec { path: self.path.clone(), format: self.format };
        // It is ours alone while it is open; a damaged one is locked by nobody.
        let opened = vmm_disk::open_chain(&[layer], false);
        if let Err(error @ vmm_disk::Error::InUse { .. }) = opened {
            return Err(error).context(DiskFileSnafu);
        }
        fs::remove_file(&self.path)
            .with_context(|_| SystemSnafu { what: format!("remove {}", self.path.display()) })
    }
}

/// Which VM has a file, in words.
fn whose(home: &Home, file: &Path) -> Result<Option<String>, Error> {
    let path = true_path(file);
    for folder in home.folders()? {
        let Ok(Some(spec)) = folder.spec() else { continue };
        let (vm, file) = (spec.display_name(), file.display());
        let mut disks = spec.machine.disks.iter().map(|disk| disk.layers.as_slice());
        // A layer may be a link to a file of the user's.
        let is_it = |layer: &LayerSpec| {
            layer.path == path || fs::read_link(&layer.path).is_ok_and(|target| target == path)
        };
        let has = |layers: &[LayerSpec]| layers.iter().any(is_it);
        let of_root = disks.next().is_some_and(has) || spec.snapshots.iter().any(|kept| has(&kept.layers));
        if of_root {
            return Ok(Some(format!("{file} is a part of the disk of the VM {vm}")));
        }
        if disks.any(has) {
            return Ok(Some(format!("{file} is a disk of the VM {vm}: vmm disk detach {vm} {file}")));
        }
    }
    Ok(None)
}

/// The format of a file, where its name and its contents agree. A guest that writes a raw disk can make it look like any
/// other format, so its looks alone decide nothing.
pub(super) fn find_format(path: &Path, told: impl FnOnce(&str) -> String) -> Result<Format, Error> {
    let looks = looks_like(path)
        .with_context(|_| SystemSnafu { what: format!("read the disk {}", path.display()) })?;
    if format_of_name(path) == Some(looks) || (is_device(path) && looks == Format::Raw) {
        return Ok(looks);
    }
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    let (path, looks) = (path.display(), name(looks));
    let message = match ending.as_str() {
        "qcow2" => format!("{path} is called a qcow2 and does not begin as one: it is damaged, or cut short"),
        "vmdk" | "vhd" | "vhdx" | "vdi" => format!(
            "{path} is called a {ending}, which is read by vmm images import only: as a disk, qemu-img convert -O qcow2 \
             makes one of it"
        ),
        _ => format!(
            "the name of {path} does not tell what its contents look like, which is {looks}: say which format it has, as \
             in {}",
            told(looks)
        ),
    };
    Err(Error::Invalid { message })
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
    }
}

fn format_of_name(path: &Path) -> Option<Format> {
    match path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase().as_str() {
        "qcow2" => Some(Format::Qcow2),
        "raw" | "img" => Some(Format::Raw),
        _ => None,
    }
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn looks_like(path: &Path) -> io::Result<Format> {
    // A pipe is not waited for.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut start = Vec::new();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    file.take(QCOW2.len() as u64).read_to_end(&mut start)?;
    Ok(if start == QCOW2 { Format::Qcow2 } else { Format::Raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_taken_where_name_and_contents_agree() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, start: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, [start, &[0; 65536]].concat()).unwrap();
            find_format(&path, |looks| format!("--format {looks}"))
        };
        assert_eq!(at("a.raw", b"").unwrap(), Format::Raw);
        assert_eq!(at("a.IMG", b"").unwrap(), Format::Raw);
        assert_eq!(at("a.qcow2", QCOW2).unwrap(), Format::Qcow2);
        let error = at("b.raw", QCOW2).unwrap_err().to_string();
        assert!(error.ends_with("as in --format qcow2"), "{error}");
        assert!(at("b.qcow2", b"").is_err() && at("disk", b"").is_err());
    }

    #[test]
    fn a_disk_is_made_grown_checked_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        for (name, format) in [("a.raw", "raw"), ("a.qcow2", "qcow2")] {
            let path = folder.path().join(name);
            let disk = DiskFile::create(&path, "64M".parse().unwrap()).unwrap();
            assert!(DiskFile::create(&path, "64M".parse().unwrap()).is_err(), "it is there already");
            assert_eq!((disk.format_name(), disk.info().unwrap().virtual_size), (format, 64 << 20));
            disk.resize("1G".parse().unwrap()).unwrap();
            assert!(disk.resize("1M".parse().unwrap()).is_err());
            assert_eq!(disk.info().unwrap().virtual_size, 1 << 30);
            assert_eq!(disk.check().unwrap(), DiskCheck::default());
            let used = vmm_disk::open_chain(&[LayerSpec { path: path.clone(), format: disk.format }], false);
            assert!(disk.clone().remove(&home).is_err() && disk.resize("2G".parse().unwrap()).is_err());
            drop(used);
            disk.remove(&home).unwrap();
            assert!(!path.exists());
        }
        assert!(DiskFile::create(folder.path().join("a"), "64M".parse().unwrap()).is_err());
    }
}
