//! A disk that gets another top layer while it is used: a running machine is cloned by that.
//!
//! Requests go through a gate. A switch closes it, so that nothing is in flight, writes everything back, reads the old
//! top anew as a layer that nobody writes, and goes on with the new one upon it. Whatever can fail comes before the point
//! from which on there is no way back, and until then the disk is what it was.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use snafu::{ResultExt, ensure};

use crate::chain::{lock_layer, open_layer};
use crate::error::{
    Error, NotEmptySnafu, OpenLayerSnafu, OtherTopSnafu, Qcow2Snafu, RecordSnafu, SettleSnafu, TooDeepSnafu,
};
use crate::locking::{read, write};
use crate::qcow2::{Header, Qcow2Image};
use crate::{DiskImage, Extent, Format, Layer, LayerFile, LayerSpec, MAX_LAYERS, Storage, open_chain_layers};

/// A disk that is written and whose top layer is qcow2.
pub struct LiveDisk {
    size: u64,
    state: RwLock<State>,
}

struct State {
    top: Arc<Qcow2Image>,
    storage: Arc<dyn Storage>,
    path: PathBuf,
    /// Which file the top is, where it is one.
    file: Option<FileId>,
    below: Option<Arc<dyn DiskImage>>,
    depth: usize,
}

/// What tells one file from every other: its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(file: &File, path: &Path) -> Result<Self, Error> {
        let metadata = file.metadata().context(OpenLayerSnafu { path })?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }
}

/// Why something was not recorded.
pub type RecordError = Box<dyn StdError + Send + Sync>;

impl LiveDisk {
    /// Opens a disk, as [`crate::open_chain`] does. `None`: its top layer is not qcow2, and cannot be switched.
    pub fn open(layers: &[LayerSpec]) -> Result<Option<Self>, Error> {
        let Some((top, below)) = layers.split_last().filter(|(top, _)| top.format == Format::Qcow2) else {
            return Ok(None);
        };
        let mut opened = Vec::new();
        for LayerSpec { path, format } in below {
            let storage: Arc<dyn Storage> = Arc::new(lock_layer(open_layer(path, false)?, path, false)?);
            opened.push(Layer { storage, path: path.clone(), format: *format });
        }
        let file = open_layer(&top.path, true)?;
        let id = FileId::of(&file, &top.path)?;
        let storage: Arc<dyn Storage> = Arc::new(lock_layer(file, &top.path, true)?);
        opened.push(Layer { storage, path: top.path.clone(), format: top.format });
        Self::on(opened, Some(id)).map(Some)
    }

    /// Opens a disk on any storages, the last of which is qcow2; locks are the caller's business.
    pub fn open_layers(layers: Vec<Layer>) -> Result<Self, Error> {
        Self::on(layers, None)
    }

    fn on(mut layers: Vec<Layer>, file: Option<FileId>) -> Result<Self, Error> {
        let depth = layers.len();
        ensure!(depth <= MAX_LAYERS, TooDeepSnafu { count: depth });
        let Some(Layer { storage, path, .. }) = layers.pop() else { return Err(Error::NoLayers) };
        let header = Header::read(&*storage).context(Qcow2Snafu { path: &path })?;
        if let (true, Some(name)) = (layers.is_empty(), &header.backing_name) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(Error::MissingBase { path, name });
        }
        let below = if layers.is_empty() { None } else { Some(open_chain_layers(layers, true)?) };
        let top = Qcow2Image::open_with(&header, Arc::clone(&storage), below.clone(), false);
        let top = Arc::new(top.context(Qcow2Snafu { path: &path })?);
        Ok(Self { size: top.size(), state: RwLock::new(State { top, storage, path, file, below, depth }) })
    }

    /// The file of the layer that is written.
    pub fn top(&self) -> PathBuf {
        read(&self.state).path.clone()
    }

    /// Goes on with a new, empty layer upon what is there, as [`LiveDisk::switch`] does. `new` is open for writing, and
    /// `old`, the top until now, for reading.
    pub fn switch_to_file(
        &self,
        new: LayerFile,
        old: File,
        record: &mut dyn FnMut() -> Result<(), RecordError>,
    ) -> Result<(), Error> {
        let LayerFile { file, path, format } = new;
        let id = FileId::of(&file, &path)?;
        let (ours, current) = {
            let state = read(&self.state);
            (state.file, state.path.clone())
        };
        ensure!(ours == Some(FileId::of(&old, &current)?), OtherTopSnafu { path: current });
        ensure!(format == Format::Qcow2, NotEmptySnafu { path });
        let storage = Arc::new(lock_layer(file, &path, true)?);
        let again = move || {
            let storage: Arc<dyn Storage> = Arc::new(lock_layer(old, &current, false)?);
            Ok(storage)
        };
        self.switch_between(Layer { storage, path, format }, Some(id), again, record)
    }

    /// Goes on with a new, empty layer upon what is there. `again` gives the storage of the top until now once more, to
    /// be read only.
    ///
    /// When it returns, the old top is what the disk held at some moment during the call, on which nothing was in flight,
    /// is complete on its storage, and is written no more. `record` is called at that moment, last of all that can fail;
    /// after an error of any kind the disk goes on as it was.
    pub fn switch(
        &self,
        new: Layer,
        again: impl FnOnce() -> Result<Arc<dyn Storage>, Error>,
        record: &mut dyn FnMut() -> Result<(), RecordError>,
    ) -> Result<(), Error> {
        self.switch_between(new, None, again, record)
    }

    fn switch_between(
        &self,
        new: Layer,
        file: Option<FileId>,
        again: impl FnOnce() -> Result<Arc<dyn Storage>, Error>,
        record: &mut dyn FnMut() -> Result<(), RecordError>,
    ) -> Result<(), Error> {
        let Layer { storage, path, .. } = new;
        let header = Header::read(&*storage).context(Qcow2Snafu { path: &path })?;
        let empty = header.has_no_tables(&*storage).context(OpenLayerSnafu { path: &path })?;
        let fits = empty && header.size == self.size && header.backing_name.is_none();
        ensure!(fits, NotEmptySnafu { path });
        // Waits until the requests under way have ended, and keeps others out.
        let mut state = write(&self.state);
        let depth = state.depth + 1;
        ensure!(depth <= MAX_LAYERS, TooDeepSnafu { count: depth });
        let switched = state.prepare((&header, Arc::clone(&storage), &path), again).and_then(|made| {
            record().context(RecordSnafu { path: &path })?;
            Ok(made)
        });
        let (below, top) = match switched {
            Ok(made) => made,
            Err(error) => {
                // It is ours alone again. That somebody reads it meanwhile would do no harm: nobody else writes it.
                let _ = state.storage.let_others_read(false);
                return Err(error);
            }
        };
        // From here on nothing can fail.
        state.top.retire();
        *state = State { top, storage, path, file, below: Some(below), depth };
        Ok(())
    }
}

impl State {
    /// Writes the top back, and opens it for reading and the new one upon it.
    fn prepare(
        &self,
        new: (&Header, Arc<dyn Storage>, &Path),
        again: impl FnOnce() -> Result<Arc<dyn Storage>, Error>,
    ) -> Result<(Arc<dyn DiskImage>, Arc<Qcow2Image>), Error> {
        let path = &self.path;
        // The second writes that what the first let go of is free, as closing the image would.
        self.top.flush().and_then(|()| self.top.flush()).context(SettleSnafu { path })?;
        self.storage.let_others_read(true).context(SettleSnafu { path })?;
        let storage = again()?;
        let header = Header::read(&*storage).context(Qcow2Snafu { path })?;
        let old = Qcow2Image::open_with(&header, storage, self.below.clone(), true);
        let old: Arc<dyn DiskImage> = Arc::new(old.context(Qcow2Snafu { path })?);
        let (header, storage, path) = new;
        let top = Qcow2Image::open_with(header, storage, Some(Arc::clone(&old)), false);
        Ok((old, Arc::new(top.context(Qcow2Snafu { path })?)))
    }
}

impl DiskImage for LiveDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        read(&self.state).top.read(buffers, offset)
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        read(&self.state).top.write(buffers, offset)
    }

    fn flush(&self) -> io::Result<()> {
        read(&self.state).top.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        read(&self.state).top.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        read(&self.state).top.write_zeroes(offset, length, unmap)
    }

    /// A hint never waits: where the top is being switched, it is not given.
    fn will_read(&self, offset: u64, length: u64) {
        if let Ok(state) = self.state.try_read() {
            state.top.will_read(offset, length);
        }
    }

    fn will_write(&self, offset: u64, length: u64) {
        if let Ok(state) = self.state.try_read() {
            state.top.will_write(offset, length);
        }
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        read(&self.state).top.data_from(offset)
    }

    fn extent(&self, offset: u64, length: u64) -> io::Result<Extent> {
        read(&self.state).top.extent(offset, length)
    }
}

#[cfg(test)]
mod tests;
