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

/// Checks the metadata of a qcow2 layer, which nobody may be writing.
pub fn check_layer(path: &Path) -> Result<CheckReport, Error> {
    let storage = lock_layer(open_layer(path, false)?, path, false)?;
    crate::qcow2::check(&storage).context(CheckSnafu { path })
}
