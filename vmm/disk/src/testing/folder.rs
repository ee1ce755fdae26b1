//! A folder in memory that records what is done to its names and files, and replays what a power cut can leave.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Event, MemoryStorage};
use crate::locking::lock;
use crate::{FileSystem, Storage};

/// What was done: to a file, or to the folder.
#[derive(Clone, Debug)]
enum Step {
    File { number: usize, event: Event },
    Create { number: usize, path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncFolder,
}

/// The files by their names, as a power cut left them.
pub type FolderState = BTreeMap<PathBuf, Vec<u8>>;

/// One folder, whatever its path.
#[derive(Debug, Default)]
pub struct RecordedFolder {
    steps: Arc<Mutex<Vec<Step>>>,
    names: Mutex<BTreeMap<PathBuf, usize>>,
}

#[derive(Debug)]
struct RecordedFile {
    number: usize,
    memory: MemoryStorage,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl RecordedFolder {
    /// How many steps were taken so far.
    pub fn steps(&self) -> usize {
        lock(&self.steps).len()
    }

    /// Calls `inspect` with each state that a power cut after the first `steps` steps can leave: any of the writes
    /// to a file since it was synced, and any of the changes of names since the folder was.
    pub fn replay(&self, steps: usize, mut inspect: impl FnMut(&FolderState)) {
        let log = lock(&self.steps)[..steps].to_vec();
        let open: Vec<usize> = (0..steps).filter(|&step| !is_durable(&log, step)).collect();
        for subset in 0..1_u64 << open.len() {
            let kept = |step: usize| match open.binary_search(&step) {
                Ok(position) => subset & 1 << position != 0,
                Err(_) => true,
            };
            inspect(&state(&log, kept));
        }
    }

    fn step(&self, step: Step) {
        lock(&self.steps).push(step);
    }
}

/// Whether a later sync has made a step durable.
fn is_durable(log: &[Step], step: usize) -> bool {
    let mut later = log[step..].iter();
    match &log[step] {
        Step::File { number: file, .. } => {
            later.any(|step| matches!(step, Step::File { number, event: Event::Sync } if number == file))
        }
        _ => later.any(|step| matches!(step, Step::SyncFolder)),
    }
}

fn state(log: &[Step], kept: impl Fn(usize) -> bool) -> FolderState {
    let mut contents: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
    // What a name stands for does not depend on which names are durable.
    let mut meant: BTreeMap<&Path, usize> = BTreeMap::new();
    for (position, step) in log.iter().enumerate() {
        let kept = kept(position);
        match step {
            Step::File { number, event } => {
                let bytes = contents.entry(*number).or_default();
                if kept {
                    event.apply(bytes, |_| true);
                }
            }
            Step::Create { number, path } => {
                meant.insert(path, *number);
                if kept {
                    names.insert(path.clone(), *number);
                }
            }
            Step::Rename { from, to } => {
                let Some(number) = meant.remove(from.as_path()) else { continue };
                meant.insert(to, number);
                if kept {
                    names.remove(from);
                    names.insert(to.clone(), number);
                }
            }
            Step::Remove { path } => {
                meant.remove(path.as_path());
                if kept {
                    names.remove(path);
                }
            }
            Step::SyncFolder => {}
        }
    }
    names
        .into_iter()
        .map(|(path, number)| (path, contents.get(&number).cloned().unwrap_or_default()))
        .collect()
}

impl FileSystem for RecordedFolder {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Storage>> {
        let mut names = lock(&self.names);
        if names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = self.steps();
        names.insert(path.to_owned(), number);
        self.step(Step::Create { number, path: path.to_owned() });
        Ok(Arc::new(RecordedFile { number, memory: MemoryStorage::default(), steps: self.steps.clone() }))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = lock(&self.names);
        if names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), number);
        self.step(Step::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        lock(&self.names).remove(path).ok_or(io::ErrorKind::NotFound)?;
        self.step(Step::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        self.step(Step::SyncFolder);
        Ok(())
    }
}

impl RecordedFile {
    fn record(&self, event: Event) {
        lock(&self.steps).push(Step::File { number: self.number, event });
    }
}

impl Storage for RecordedFile {
    fn length(&self) -> io::Result<u64> {
        self.memory.length()
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.memory.read(buffers, offset)
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.memory.write(buffers, offset)?;
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.record(Event::Write { offset, bytes });
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.memory.write_zeroes(offset, length, unmap)?;
        self.record(Event::Zero { offset, length, grows: !unmap });
        Ok(())
    }

    fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.memory.set_length(length)?;
        self.record(Event::SetLength(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.record(Event::Sync);
        Ok(())
    }
}
