//! Making layers.

use std::path::Path;

use snafu::ResultExt;

use crate::error::{Error, PublishSnafu};
use crate::publish::{FileSystem, HostFileSystem, publish};
use crate::qcow2::Layout;

/// Makes an empty qcow2 layer for a disk of `virtual_size` bytes, to lie upon others or to stand alone. It names no
/// other file: the chain is recorded by whoever makes it.
///
/// When it returns without an error, the file survives a power cut; otherwise there is no such file.
///
/// ```
/// use vmm_disk::{Format, LayerSpec, create_overlay, open_chain};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("top.qcow2");
/// create_overlay(&path, 1 << 30)?;
/// let disk = open_chain(&[LayerSpec { path, format: Format::Qcow2 }], false)?;
/// assert_eq!(disk.size(), 1 << 30);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create_overlay(path: &Path, virtual_size: u64) -> Result<(), Error> {
    create_overlay_on(&HostFileSystem, path, virtual_size)
}

/// As [`create_overlay`], but what is made need not survive a power cut: for disks that are thrown away.
pub fn create_overlay_unsynced(path: &Path, virtual_size: u64) -> Result<(), Error> {
    let storage = HostFileSystem.create(path).context(PublishSnafu { what: "create", path })?;
    Layout::new(virtual_size).write(&*storage).context(PublishSnafu { what: "write", path }).inspect_err(
        |_| {
            // The error that matters is the first.
            let _ = HostFileSystem.remove(path);
        },
    )
}

/// As [`create_overlay`], on another file system.
pub fn create_overlay_on(file_system: &dyn FileSystem, path: &Path, virtual_size: u64) -> Result<(), Error> {
    publish(file_system, path, |storage| Layout::new(virtual_size).write(storage))
}

/// Makes a raw layer of zeroes, which takes no space until it is written.
pub fn create_raw(path: &Path, virtual_size: u64) -> Result<(), Error> {
    publish(&HostFileSystem, path, |storage| storage.set_length(virtual_size))
}
