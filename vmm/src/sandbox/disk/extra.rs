//! A disk of the user's, which a VM gets beside its root.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use snafu::ResultExt;
use vmm_disk::{Format, LayerSpec};

use super::file::find_format;
use crate::machine::DiskSpec;
use crate::sandbox::error::{DiskFileSnafu, Error, SystemSnafu};

/// The longest name that the guest can read of a disk (virtio 1.2, 5.2.6: 20 bytes).
const LONGEST_SERIAL: usize = 20;

/// A disk file of the user's for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraDisk {
    path: PathBuf,
    format: Option<Format>,
    read_only: bool,
}

impl ExtraDisk {
    /// A disk that the guest writes, of the format that its name and its contents tell.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, read_only: false }
    }

    /// The format of the file, whatever it looks like.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Whether the guest only reads it. Several VMs can read one file, and one alone write it.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Reads `PATH[,ro][,format=raw|qcow2]`, as the command line writes it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().filter(|path| !path.is_empty()).ok_or("name the disk's file first")?;
        parts.try_fold(Self::new(path), |disk, part| match part {
            "ro" => Ok(disk.read_only(true)),
            "format=raw" => Ok(disk.format(Format::Raw)),
            "format=qcow2" => Ok(disk.format(Format::Qcow2)),
            other => Err(format!("{other:?} says nothing of a disk: use ro, format=raw or format=qcow2")),
        })
    }

    /// The `number`th disk of a machine. What is wrong with the file is said now, not by a machine that does not start.
    pub(in crate::sandbox) fn spec(&self, number: usize) -> Result<DiskSpec, Error> {
        let given = &self.path;
        let path = fs::canonicalize(given)
            .with_context(|_| SystemSnafu { what: format!("find the disk {}", given.display()) })?;
        let format = match self.format {
            Some(format) => format,
            None => find_format(&path)?,
        };
        let layers = vec![LayerSpec { path, format }];
        vmm_disk::open_chain(&layers, self.read_only).context(DiskFileSnafu)?;
        let name = given.file_stem().map(OsStr::to_string_lossy).unwrap_or_default();
        let mut serial = format!("{number}-{name}");
        while serial.len() > LONGEST_SERIAL {
            serial.pop();
        }
        Ok(DiskSpec { layers, read_only: self.read_only, serial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_as_the_command_line_writes_it() {
        assert_eq!(ExtraDisk::parse("/a.raw"), Ok(ExtraDisk::new("/a.raw")));
        let disk = ExtraDisk::new("b").read_only(true).format(Format::Qcow2);
        assert_eq!(ExtraDisk::parse("b,format=qcow2,ro"), Ok(disk));
        assert!(ExtraDisk::parse(",ro").is_err());
        let error = ExtraDisk::parse("a,rw").unwrap_err();
        assert_eq!(error, "\"rw\" says nothing of a disk: use ro, format=raw or format=qcow2");
    }

    #[test]
    fn the_name_that_a_guest_reads_is_cut_between_characters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ääääääääääääää.raw");
        fs::write(&path, [0; 4096]).unwrap();
        let spec = ExtraDisk::new(&path).spec(2).unwrap();
        assert_eq!(spec.serial, "2-äääääääää");
    }
}
