//! The frozen laboratory: it boots once, up to where it waits for a command, and its state and memory are kept. Each run
//! begins there, with memory of its own over the frozen one, so that many may run at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::emulator::{Emulator, PROGRAM, Parts, STATE_FILE, Start, arguments};
use super::initramfs::Initramfs;
use super::kept::{keep_last_used, make_folder, remove_if_there, touch};
use super::programs;
use super::session::Session;
use crate::command;
use crate::failure::{Failure, Outcome};
use crate::steps::seconds;

/// How long a laboratory may take to boot, on the slowest machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How many are kept: other states of the code may use the same folder.
const KEPT: usize = 3;

/// Finds the frozen laboratory that is made of these, or makes it; gives its folder.
pub(super) fn find_or_make(folder: &Path, parts: &Parts, initramfs: &Initramfs) -> Outcome<PathBuf> {
    make_folder(folder)?;
    let frozen = folder.join(format!("{:016x}", digest(parts, initramfs)?));
    if frozen.join(STATE_FILE).is_file() {
        touch(&frozen)?;
        return Ok(frozen);
    }
    let began = Instant::now();
    eprintln!("The laboratory is made anew:");
    let partial = folder.join("partial");
    remove_if_there(&partial).map_err(|error| failed(&partial, &error))?;
    make_folder(&partial)?;
    freeze(&partial, parts, initramfs)?;
    std::fs::rename(&partial, &frozen)
        .and_then(|()| keep_last_used(folder, KEPT))
        .map_err(|error| failed(&frozen, &error))?;
    eprintln!("  it is frozen in {} ({})", frozen.display(), seconds(began.elapsed()));
    Ok(frozen)
}

fn freeze(folder: &Path, parts: &Parts, initramfs: &Initramfs) -> Outcome {
    let file = folder.join("initramfs");
    initramfs.write(&file)?;
    let began = Instant::now();
    let emulator = Emulator::start(parts, &Start::Boot { initramfs: &file, folder })?;
    let mut emulator = Session::boot(emulator, BOOT_LIMIT)?.into_emulator();
    eprintln!("  it is up ({})", seconds(began.elapsed()));
    let mut monitor = emulator.monitor()?;
    monitor.save(STATE_FILE)?;
    monitor.quit()?;
    emulator.wait()?;
    std::fs::remove_file(&file).map_err(|error| failed(&file, &error))
}

/// What tells one laboratory from another. Large files that are never changed in place are told by their names, sizes
/// and times.
fn digest(parts: &Parts, initramfs: &Initramfs) -> Outcome<u64> {
    let mut hasher = DefaultHasher::new();
    command::output(PROGRAM, &["--version"]).hash(&mut hasher);
    let nowhere = Path::new("");
    // The programs' disk is another one for each build, and the laboratory does not mind.
    let named = Parts { kernel: parts.kernel.clone(), root: parts.root.clone(), programs: PathBuf::new() };
    arguments(&named, &Start::Boot { initramfs: nowhere, folder: nowhere }).hash(&mut hasher);
    programs::SIZE.hash(&mut hasher);
    initramfs.init()?.hash(&mut hasher);
    for path in initramfs.files().into_iter().chain([parts.kernel.clone(), parts.root.clone()]) {
        let metadata = path.metadata().map_err(|error| failed(&path, &error))?;
        (&path, metadata.len(), metadata.modified().ok()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot make or read {}: {error}", path.display()))
}
