//! Advisory locks on files: who holds one lives, and the kernel drops it when its holder dies.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A file that is open and locked; dropping it unlocks.
///
/// The descriptor is closed on `exec`, so no program that we start inherits the lock.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    handed_over: bool,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child between `fork` and `exec` has it open, too.
        if !self.handed_over {
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl FileLock {
    /// Locks for ourselves alone. `None`: another process holds it.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        Self::try_lock(open(path)?, FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks together with other readers. `None`: another process holds it alone.
    pub fn try_shared(path: &Path) -> io::Result<Option<Self>> {
        Self::try_lock(open(path)?, FlockOperation::NonBlockingLockShared)
    }

    /// Locks for ourselves alone, waiting for whoever holds it.
    pub fn exclusive(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
        Ok(Self { file, handed_over: false })
    }

    /// Locks a file that is already open. `None`: another process holds it.
    pub fn try_exclusive_file(file: File) -> io::Result<Option<Self>> {
        Self::try_lock(file, FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks a file that is already open, together with other readers. `None`: another process holds it alone.
    pub fn try_shared_file(file: File) -> io::Result<Option<Self>> {
        Self::try_lock(file, FlockOperation::NonBlockingLockShared)
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Lets other readers lock the file beside us, or locks it for ourselves alone again.
    ///
    /// The kernel gives the one lock up before it takes the other (flock(2)). Where somebody else was quicker, the first is
    /// taken back.
    pub fn share(&self, others_may: bool) -> io::Result<()> {
        let (wanted, other) = match others_may {
            true => (FlockOperation::NonBlockingLockShared, FlockOperation::NonBlockingLockExclusive),
            false => (FlockOperation::NonBlockingLockExclusive, FlockOperation::NonBlockingLockShared),
        };
        flock(&self.file, wanted).map_err(|errno| {
            let _ = flock(&self.file, other);
            errno.into()
        })
    }

    /// Leaves the lock to whoever has a duplicate of the file.
    pub fn hand_over(mut self) {
        self.handed_over = true;
    }

    fn try_lock(file: File, operation: FlockOperation) -> io::Result<Option<Self>> {
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Self { file, handed_over: false })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        assert!(FileLock::try_shared(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_shared(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_shared_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        held.share(true).unwrap();
        let reader = FileLock::try_shared(&path).unwrap().unwrap();
        assert!(held.share(false).is_err());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(reader);
        held.share(false).unwrap();
        assert!(FileLock::try_shared(&path).unwrap().is_none());
    }

    #[test]
    fn a_duplicate_keeps_a_lock_only_where_it_was_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        let _duplicate = held.file().try_clone().unwrap();
        drop(held);
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        let duplicate = held.file().try_clone().unwrap();
        held.hand_over();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(duplicate);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }
}
