//! Waiting for a lock that another process has, in a way that can be given up.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use snafu::ResultExt;
use vmm_sys::FileLock;

use super::error::{CancelledSnafu, Result, StorageSnafu};
use super::progress::{Progress, Stage, Step};

/// How often one that waits looks whether it should give up.
const GLANCE: Duration = Duration::from_millis(50);

/// Takes a lock for ourselves alone. `label` is the image that it is about.
pub(super) fn lock_patiently(path: &Path, label: &str, progress: &dyn Progress) -> Result<FileLock> {
    let storage = StorageSnafu { action: "lock", path };
    if let Some(lock) = FileLock::try_exclusive(path).context(storage)? {
        return Ok(lock);
    }
    // A thread waits for the lock, so that we can tell whom we wait for and give up. If we do, it lets the lock go when
    // it gets it.
    let (sender, locked) = mpsc::channel();
    let waited_for = path.to_owned();
    std::thread::spawn(move || sender.send(FileLock::exclusive(&waited_for)));
    loop {
        progress.step(Step { stage: Stage::Waiting, subject: label, done: 0, total: None });
        match locked.recv_timeout(GLANCE) {
            Ok(lock) => return lock.context(storage),
            Err(_) if progress.cancelled() => return CancelledSnafu { image: label }.fail(),
            Err(_) => {}
        }
    }
}

/// Takes a lock together with others like us. Who has it alone has it for a moment only.
pub(super) fn share_patiently(path: &Path, label: &str, progress: &dyn Progress) -> Result<FileLock> {
    let (_sender, never) = mpsc::channel::<()>();
    loop {
        if let Some(lock) = FileLock::try_shared(path).context(StorageSnafu { action: "lock", path })? {
            return Ok(lock);
        }
        progress.step(Step { stage: Stage::Waiting, subject: label, done: 0, total: None });
        if progress.cancelled() {
            return CancelledSnafu { image: label }.fail();
        }
        let _: Result<(), RecvTimeoutError> = never.recv_timeout(GLANCE);
    }
}
