//! What a layer is, told from its file alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use snafu::ResultExt;

use crate::chain::{lock_layer, open_layer};
use crate::error::{CheckSnafu, Error, InspectSnafu, Qcow2Snafu};
use crate::qcow2::{CheckReport, Header};
use crate::{Format, Storage};

/// What a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// The size of the disk that it is a layer of.
    pub virtual_size: u64,
    /// The length of its file.
    pub file_size: u64,
    /// What the file takes of the host's disk.
    pub allocated_size: u64,
    /// The layer below, as the header names it. Only an import may follow it.
    pub backing: Option<BackingName>,
}

/// How a header names the layer below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// The file's name, as it stands there.
    pub name: String,
    /// Its format, if it is told.
    pub format: Option<String>,
}

/// Tells what a layer is. Its file may be in use.
pub fn inspect(path: &Path, format: Format) -> Result<LayerInfo, Error> {
    let file = open_layer(path, false)?;
    let metadata = file.metadata().context(InspectSnafu { path })?;
    let storage = crate::FileStorage::unlocked(file);
    let file_size = storage.length().context(InspectSnafu { path })?;
    let allocated_size = metadata.blocks() * 512;
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let (virtual_size, backing) = match format {
        Format::Raw => (file_size, None),
        Format::Qcow2 => {
            let header = Header::read(&storage).context(Qcow2Snafu { path })?;
            let backing = header.backing_name.as_ref().map(|name| BackingName {
                name: text(name),
                format: header.backing_format.as_ref().map(text),
            });
            (header.size, backing)
        }
    };
    Ok(LayerInfo { virtual_size, file_size, allocated_size, backing })
}

/// Whether nothing was ever written to a layer: all of it shows what is below. Its file may be in use.
pub fn is_untouched(path: &Path, format: Format) -> Result<bool, Error> {
    if format == Format::Raw {
        return Ok(false);
    }
    let storage = crate::FileStorage::unlocked(open_layer(path, false)?);
    let header = Header::read(&storage).context(Qcow2Snafu { path })?;
    header.has_no_tables(&storage).context(InspectSnafu { path })
}

/// Checks the metadata of a qcow2 layer, which nobody may be writing.
pub fn check_layer(path: &Path) -> Result<CheckReport, Error> {
    let storage = lock_layer(open_layer(path, false)?, path, false)?;
    crate::qcow2::check(&storage).context(CheckSnafu { path })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LayerSpec, create_overlay, open_chain};
    use std::io::IoSlice;

    #[test]
    fn a_layer_is_untouched_until_something_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("top.qcow2");
        create_overlay(&path, 1 << 30).unwrap();
        let layers = [LayerSpec { path: path.clone(), format: Format::Qcow2 }];
        drop(open_chain(&layers, false).unwrap());
        assert!(is_untouched(&path, Format::Qcow2).unwrap());
        let disk = open_chain(&layers, false).unwrap();
        disk.write(&[IoSlice::new(b"x")], 1 << 20).unwrap();
        drop(disk);
        assert!(!is_untouched(&path, Format::Qcow2).unwrap());
    }
}
