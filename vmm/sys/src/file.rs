//! Giving file space back, zeroing ranges of a file without writing zeroes, fetching them ahead, renaming without replacing,
//! removing what may be gone.

use std::fs::File;
use std::io;
use std::path::Path;

/// Gives the range's space back; it reads as zeroes afterwards. The file's length stays.
///
/// Fails with [`io::ErrorKind::Unsupported`] where the file system cannot.
pub fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::FallocateFlags;
        allocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, offset, length);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The range reads as zeroes afterwards and has its space reserved; the file grows to hold it.
///
/// Fails with [`io::ErrorKind::Unsupported`] where the file system cannot.
pub fn zero_range(file: &File, offset: u64, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        allocate(file, rustix::fs::FallocateFlags::ZERO_RANGE, offset, length)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, offset, length);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The range is about to be read: the system begins to fetch what it does not have, and nobody waits for it. Where it
/// cannot, nothing happens.
pub fn fetch_ahead(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Advice, fadvise};
        if let Some(length) = std::num::NonZeroU64::new(length) {
            let _only_a_hint = fadvise(file, offset, Some(length), Advice::WillNeed);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}

/// A removal of what may be gone already.
pub fn if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Renames a file to a name that nothing has yet; fails with [`io::ErrorKind::AlreadyExists`] otherwise.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do it at once gets it in two steps.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match to.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
            Err(error) => Err(error),
        },
        result => Ok(result?),
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, flags: rustix::fs::FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, offset, length)) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Err(io::ErrorKind::Unsupported.into()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_punched_hole_reads_as_zeroes_and_keeps_the_length() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        if let Err(error) = punch_hole(&file, 0, 4096) {
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            println!("skipped: the file system punches no holes");
            return;
        }
        let mut bytes = [1; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..4096], [0; 4096]);
        assert_eq!(bytes[4096..], [7; 4096]);
    }

    #[test]
    fn renaming_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        assert_eq!(rename_new(&old, &new).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "new");
        std::fs::remove_file(&new).unwrap();
        rename_new(&old, &new).unwrap();
        assert_eq!(std::fs::read_to_string(&new).unwrap(), "old");
    }

    #[test]
    fn a_zeroed_range_grows_the_file() {
        let file = tempfile::tempfile().unwrap();
        match zero_range(&file, 0, 65536) {
            Ok(()) => assert_eq!(file.metadata().unwrap().len(), 65536),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }
}
