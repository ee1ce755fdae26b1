//! A disk of the user's, which a VM gets beside its root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use snafu::ResultExt;
use vmm_disk::{Format, LayerSpec};

use super::file::find_format;
use crate::home::VmSpec;
use crate::machine::DiskSpec;
use crate::sandbox::Sandbox;
use crate::sandbox::error::{DiskFileSnafu, Error, SystemSnafu};
use crate::sandbox::start::{is_base, place_base};

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
    /// Where its file is.
    pub(in crate::sandbox) fn path(&self) -> &Path {
        &self.path
    }

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
            None => find_format(&path, |looks| format!("--disk {},format={looks}", path.display()))?,
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

impl Sandbox {
    /// Gives it a disk of its user's from its next start on, behind those that it has. One that it has already in the same
    /// way stays. It must not run.
    pub fn add_disk(&self, disk: &ExtraDisk) -> Result<(), Error> {
        self.change_disk(|_, _, spec| {
            let disks = &mut spec.machine.disks;
            // The names by which the guest knows its disks differ, whatever was taken away between them.
            let number = |disk: &DiskSpec| disk.serial.split_once('-')?.0.parse::<usize>().ok();
            let number = disks.iter().filter_map(number).max().unwrap_or(1).saturating_add(1);
            let new = disk.spec(number)?;
            match disks.iter().skip(1).filter(|disk| !is_base(disk)).find(|other| other.layers == new.layers)
            {
                None => disks.insert(disks.iter().position(is_base).unwrap_or(disks.len()), new),
                Some(other) if other.read_only == new.read_only => {}
                Some(_) => {
                    let (vm, path) = (self.name(), disk.path.display());
                    let message = format!(
                        "{vm} has the disk {path} already, but not in this way: vmm disk detach {vm} {path}"
                    );
                    return Err(Error::Invalid { message });
                }
            }
            place_base(spec)
        })
    }

    /// Takes a disk of its user's away from it. Its file stays as it is, and may be gone already. It must not run.
    pub fn remove_disk(&self, file: impl AsRef<Path>) -> Result<(), Error> {
        let file = file.as_ref();
        self.change_disk(|_, _, spec| {
            let path = true_path(file);
            let others = spec.machine.disks.iter().skip(1);
            let position = others.into_iter().position(|disk| !is_base(disk) && is_at(disk, &path));
            let Some(position) = position else {
                return Err(Error::Invalid { message: no_such_disk(spec, file) });
            };
            spec.machine.disks.remove(position + 1);
            place_base(spec)
        })
    }
}

/// Where a file is, or was.
pub(in crate::sandbox) fn true_path(file: &Path) -> PathBuf {
    let found = fs::canonicalize(file).or_else(|_| std::path::absolute(file));
    found.unwrap_or_else(|_| file.to_owned())
}

fn is_at(disk: &DiskSpec, path: &Path) -> bool {
    disk.layers.iter().any(|layer| layer.path == path)
}

fn no_such_disk(spec: &VmSpec, file: &Path) -> String {
    let others = spec.machine.disks.iter().skip(1).filter(|disk| !is_base(disk));
    let layers = others.flat_map(|disk| disk.layers.last());
    let names: Vec<_> = layers.map(|layer| layer.path.display().to_string()).collect();
    let has = if names.is_empty() { "no disks beside its own".to_owned() } else { names.join(", ") };
    format!("{} has no disk {}: it has {has}", spec.display_name(), file.display())
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
