//! A disk from its layers: each shows what the ones above it have not written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use snafu::{OptionExt, ResultExt, ensure};

use crate::error::{
    Error, InUseSnafu, LockLayerSnafu, MissingBaseSnafu, NoLayersSnafu, NotAFileSnafu, OpenLayerSnafu,
    Qcow2Snafu, RawAboveSnafu, TooDeepSnafu,
};
use crate::qcow2::{Header, Qcow2Image};
use crate::{DiskImage, FileStorage, Format, LayerSpec, RawImage, Storage};

/// A deeper chain is refused: every layer costs memory, and a read time.
pub const MAX_LAYERS: usize = 128;

/// A layer whose file is open already.
#[derive(Debug)]
pub struct LayerFile {
    /// The file: readable, and writable if it is the top layer of a disk that is written.
    pub file: File,
    /// Its name, for messages.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

/// A layer on a storage of any kind.
#[derive(Debug)]
pub struct Layer {
    /// Its bytes.
    pub storage: Arc<dyn Storage>,
    /// Its name, for messages.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
}

/// Opens a disk: the layers from the base up, of which only the last is written, and none if `read_only`.
///
/// The layer that is written is locked for us alone, the others together with their other readers, for as long as
/// the disk lives. The names of other files in the headers are never followed.
pub fn open_chain(layers: &[LayerSpec], read_only: bool) -> Result<Arc<dyn DiskImage>, Error> {
    let top = layers.len().saturating_sub(1);
    let files = layers.iter().enumerate().map(|(position, layer)| {
        let file = open_layer(&layer.path, position == top && !read_only)?;
        Ok(LayerFile { file, path: layer.path.clone(), format: layer.format })
    });
    open_chain_files(files.collect::<Result<_, _>>()?, read_only)
}

/// Opens a disk whose files are open already, as [`open_chain`] does.
pub fn open_chain_files(layers: Vec<LayerFile>, read_only: bool) -> Result<Arc<dyn DiskImage>, Error> {
    let top = layers.len().saturating_sub(1);
    let layers = layers.into_iter().enumerate().map(|(position, layer)| {
        let LayerFile { file, path, format } = layer;
        let storage = lock_layer(file, &path, position == top && !read_only)?;
        Ok(Layer { storage: Arc::new(storage), path, format })
    });
    open_chain_layers(layers.collect::<Result<_, _>>()?, read_only)
}

/// Opens a disk on any storages, as [`open_chain`] does; locks are the caller's business.
pub fn open_chain_layers(layers: Vec<Layer>, read_only: bool) -> Result<Arc<dyn DiskImage>, Error> {
    let count = layers.len();
    ensure!(count <= MAX_LAYERS, TooDeepSnafu { count });
    let mut disk: Option<Arc<dyn DiskImage>> = None;
    for (position, layer) in layers.into_iter().enumerate() {
        let read_only = read_only || position + 1 < count;
        let Layer { storage, path, format } = layer;
        disk = Some(match format {
            Format::Raw => {
                ensure!(position == 0, RawAboveSnafu { path });
                Arc::new(RawImage::open(storage, read_only).context(OpenLayerSnafu { path })?)
            }
            Format::Qcow2 => {
                let header = Header::read(&*storage).context(Qcow2Snafu { path: &path })?;
                if let (0, Some(name)) = (position, &header.backing_name) {
                    let name = String::from_utf8_lossy(name);
                    return MissingBaseSnafu { path, name }.fail();
                }
                let image = Qcow2Image::open_with(&header, storage, disk, read_only);
                Arc::new(image.context(Qcow2Snafu { path })?)
            }
        });
    }
    disk.context(NoLayersSnafu)
}

/// Opens the file of a layer. What is neither a file nor a block device is refused, without waiting for it.
pub(crate) fn open_layer(path: &Path, writable: bool) -> Result<File, Error> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags(flags)
        .open(path)
        .context(OpenLayerSnafu { path })?;
    check_kind(&file, path)?;
    Ok(file)
}

/// Locks an open layer. Whoever had it before may have put another file in its place between our open and our lock: then
/// what we opened is nobody's disk any more.
pub(crate) fn lock_layer(file: File, path: &Path, writable: bool) -> Result<FileStorage, Error> {
    check_kind(&file, path)?;
    let opened = file.metadata().context(OpenLayerSnafu { path })?;
    let storage = if writable { FileStorage::exclusive(file) } else { FileStorage::shared(file) };
    let storage = storage.context(LockLayerSnafu { path })?.context(InUseSnafu { path })?;
    let replaced =
        fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) != (opened.dev(), opened.ino()));
    ensure!(!replaced, InUseSnafu { path });
    Ok(storage)
}

fn check_kind(file: &File, path: &Path) -> Result<(), Error> {
    let kind = file.metadata().context(OpenLayerSnafu { path })?.file_type();
    ensure!(kind.is_file() || kind.is_block_device(), NotAFileSnafu { path });
    Ok(())
}
