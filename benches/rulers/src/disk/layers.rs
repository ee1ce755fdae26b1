//! The disk that both serve: the same layer below, and an overlay each, which is a copy of the same file.

use std::error::Error;
use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::path::{Path, PathBuf};

use vmm_disk::{Format, LayerSpec, create_overlay, open_chain};

use super::workload::{DISK, IN_OVERLAY};

/// What an overlay's file has behind the clusters in use: as much as all first writes take, and the tables for it. It is
/// not theirs to make the file grow. Where the host is a virtual machine itself, whose hypervisor has taken back what
/// was free, a new page of the page cache costs sixteen times as much as writing to it, or nothing, as luck has it.
const SPARE: u64 = DISK - IN_OVERLAY + (16 << 20);

const CHUNK: usize = 1 << 20;

/// The files of the layers.
pub(crate) struct Layers {
    folder: PathBuf,
}

impl Layers {
    /// Makes what lies below and the overlay that is copied, once.
    pub(crate) fn prepare(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let layers = Self { folder: folder.to_path_buf() };
        make(&layers.base(), DISK, 0)?;
        make(&layers.template(), IN_OVERLAY, SPARE)?;
        Ok(layers)
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.folder.join("base.qcow2")
    }

    /// A file beside them.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A fresh overlay, all of it on the host's disk, so that nobody pays for what another one left to be written.
    pub(crate) fn overlay(&self, name: &str) -> Result<PathBuf, Box<dyn Error>> {
        let path = self.folder.join(name);
        let _there_or_not = fs::remove_file(&path);
        fs::copy(self.template(), &path)?;
        File::open(&path)?.sync_all()?;
        Ok(path)
    }

    fn template(&self) -> PathBuf {
        self.folder.join("overlay.qcow2")
    }
}

/// A layer of the whole disk's size, whose first bytes are noise, and whose file has so much free behind what is used.
fn make(path: &Path, filled: u64, spare: u64) -> Result<(), Box<dyn Error>> {
    if path.is_file() {
        return Ok(());
    }
    let partial = path.with_extension("partial");
    let _there_or_not = fs::remove_file(&partial);
    create_overlay(&partial, DISK)?;
    let disk = open_chain(&[LayerSpec { path: partial.clone(), format: Format::Qcow2 }], false)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; CHUNK];
    for offset in (0..filled).step_by(bytes.len()) {
        for word in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        disk.write(&[IoSlice::new(&bytes)], offset)?;
    }
    disk.flush()?;
    drop(disk);
    let mut file = File::options().append(true).open(&partial)?;
    for _ in (0..spare).step_by(CHUNK) {
        file.write_all(&bytes)?;
    }
    fs::rename(partial, path)?;
    Ok(())
}
