//! What a disk comes in: compressed, in an archive, or both. Each layer is told by its content and taken off.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use snafu::ResultExt;
use vmm_disk::ForeignFormat;

use super::super::error::{ImportSnafu, Result, StorageSnafu};
use super::super::files;
use super::super::transform::archive::{self, Archive};
use super::super::transform::{self, Job};
use crate::boot::Compression;

/// What the names of disks, and of what they are packed in, end with.
pub(super) const ENDINGS: [&str; 16] = [
    "qcow2", "raw", "vhd", "vpc", "vmdk", "img", "disk", "gz", "xz", "zst", "bz2", "tar", "tgz", "txz",
    "zip", "ova",
];

/// The first seven of them are of disks; archives are looked through for these.
const DISK_ENDINGS: usize = 7;

/// Nobody packs a disk more often.
const MOST_LAYERS: usize = 4;

/// A disk that is not packed any more.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) path: PathBuf,
    /// What it was packed in, the outermost first.
    steps: Vec<String>,
}

impl Unpacked {
    /// The format, and what it was packed in, from the inside out.
    pub(super) fn describe(&self, format: ForeignFormat) -> String {
        let mut text = format.to_string();
        for step in self.steps.iter().rev() {
            text += &format!(" in {step}");
        }
        text
    }
}

/// Unpacks a file into a folder, as far as it is packed.
pub(super) fn unpack(file: &Path, folder: &Path, job: Job<'_>) -> Result<Unpacked> {
    let mut unpacked = Unpacked { path: file.to_owned(), steps: Vec::new() };
    loop {
        let first = first_bytes(&unpacked.path)?;
        let compression = Compression::of(&first);
        let archive = Archive::of(&first);
        if compression.is_none() && archive.is_none() {
            return Ok(unpacked);
        }
        if unpacked.steps.len() == MOST_LAYERS {
            return ImportSnafu { path: file, why: format!("it is packed more than {MOST_LAYERS} times") }
                .fail();
        }
        let next = folder.join(format!("layer-{}", unpacked.steps.len()));
        if let Some(compression) = compression {
            transform::decompress(compression, &unpacked.path, &next, job)?;
            unpacked.steps.push(compression.to_string());
        } else {
            let name = disk_in(&unpacked.path, file)?;
            archive::extract(&unpacked.path, &name, &next, job)?;
            let kind = if archive == Some(Archive::Zip) { "zip" } else { "tar" };
            unpacked.steps.push(kind.to_owned());
        }
        if unpacked.path != file {
            files::remove_file(&unpacked.path)?;
        }
        unpacked.path = next;
    }
}

/// The one disk in an archive.
fn disk_in(archive: &Path, file: &Path) -> Result<String> {
    let ends_as_disk = |name: &String| {
        let packed = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        packed.split('.').skip(1).any(|end| ENDINGS[..DISK_ENDINGS].contains(&end))
    };
    let mut disks: Vec<String> = archive::names(archive)?.into_iter().filter(ends_as_disk).collect();
    let why = match disks.len() {
        1 => return Ok(disks.remove(0)),
        0 => "there is no disk in the archive".to_owned(),
        count => {
            format!("there are {count} disks in the archive: unpack it, and import the one with the system")
        }
    };
    ImportSnafu { path: file, why }.fail()
}

/// The first 512 bytes of a file, or all that it has.
pub(super) fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let storage = StorageSnafu { action: "read", path };
    let mut first = Vec::new();
    let metadata = std::fs::metadata(path).context(storage)?;
    if !metadata.is_dir() {
        // A pipe would be waited for; the disk's opener says what it is.
        use std::os::unix::fs::FileTypeExt;
        if metadata.file_type().is_fifo() {
            return Ok(first);
        }
        File::open(path).and_then(|file| file.take(512).read_to_end(&mut first)).context(storage)?;
    }
    Ok(first)
}
