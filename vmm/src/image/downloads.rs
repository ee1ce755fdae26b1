//! The folder of downloads: what is not complete yet, and what was fetched and not yet made an image of.
//!
//! ```text
//! downloads/<digest of its URL>.partial   the bytes of a file that have come so far
//! downloads/<digest of its URL>.json      of which file they are
//! downloads/.<digest of its URL>.lock     held by who fetches it
//! downloads/<digest>                      a file with these contents, complete and found good: it stays until what is
//!                                         made of it is in its place
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use snafu::ResultExt;
use vmm_sys::FileLock;

use super::digest::Digest;
use super::error::{Result, StorageSnafu};
use super::files;
use super::source::is_partial;

/// The folder of downloads.
#[derive(Clone, Debug)]
pub(super) struct Downloads {
    folder: PathBuf,
}

impl Downloads {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where an incomplete download is, and its lock.
    pub(super) fn places(&self, key: &str) -> Result<(PathBuf, PathBuf)> {
        files::make_folder(&self.folder)?;
        Ok((self.folder.join(format!("{key}.partial")), self.lock_path(key)))
    }

    /// Gives a complete file another name, if it is here. Whoever takes it looks at its contents.
    pub(super) fn take(&self, sha256: Digest, to: &Path) -> Result<bool> {
        if !self.has(sha256) {
            return Ok(false);
        }
        files::share(&self.folder.join(sha256.to_string()), to)?;
        Ok(true)
    }

    /// Keeps a complete file, whose contents were found to be these, beside where it is.
    pub(super) fn keep(&self, from: &Path, sha256: Digest) -> Result<()> {
        files::make_folder(&self.folder)?;
        let file = fs::File::open(from).context(StorageSnafu { action: "open", path: from })?;
        files::sync(&file, from)?;
        let path = self.folder.join(sha256.to_string());
        files::remove_file(&path)?;
        files::share(from, &path)?;
        files::sync_folder(&self.folder)
    }

    /// Removes a complete file that is not needed any more.
    pub(super) fn forget(&self, sha256: Digest) -> Result<()> {
        files::remove_file(&self.folder.join(sha256.to_string()))
    }

    /// Whether a complete file is here.
    pub(super) fn has(&self, sha256: Digest) -> bool {
        self.folder.join(sha256.to_string()).is_file()
    }

    /// Removes everything that nobody is at work on, or only tells of it. Gives each file that goes, with the bytes that
    /// this frees.
    pub(super) fn prune(&self, dry_run: bool) -> Result<Vec<(PathBuf, u64)>> {
        let mut gone = Vec::new();
        for name in files::names_in(&self.folder)? {
            if name.starts_with('.') {
                continue;
            }
            // What is complete has no lock: whoever takes it has a name of its own for it.
            let key = name.split('.').next().unwrap_or_default();
            let lock = is_partial(&name).then(|| self.lock_path(key));
            let lock = lock.map(|path: PathBuf| {
                FileLock::try_exclusive(&path).context(StorageSnafu { action: "lock", path: &path })
            });
            let lock = lock.transpose()?;
            if let Some(None) = lock {
                continue;
            }
            let path = self.folder.join(&name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !dry_run {
                files::remove_file(&path)?;
            }
            gone.push((path, metadata.blocks() * 512));
        }
        Ok(gone)
    }

    fn lock_path(&self, key: &str) -> PathBuf {
        self.folder.join(format!(".{key}.lock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_stays_until_it_is_not_needed_any_more() {
        let home = tempfile::tempdir().unwrap();
        let downloads = Downloads::new(home.path().join("downloads"));
        let (file, to) = (home.path().join("file"), home.path().join("to"));
        fs::write(&file, b"abc").unwrap();
        assert!(!downloads.take(Digest::of(b"abc"), &to).unwrap());
        downloads.keep(&file, Digest::of(b"abc")).unwrap();
        assert!(downloads.has(Digest::of(b"abc")));
        assert!(downloads.take(Digest::of(b"abc"), &to).unwrap());
        assert!(downloads.has(Digest::of(b"abc")));
        downloads.forget(Digest::of(b"abc")).unwrap();
        assert!(!downloads.has(Digest::of(b"abc")));
        assert_eq!(fs::read(to).unwrap(), b"abc");
    }

    #[test]
    fn what_nobody_is_at_work_on_can_be_removed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("downloads");
        let downloads = Downloads::new(folder.clone());
        assert_eq!(downloads.prune(false).unwrap(), []);
        let (begun, lock) = downloads.places("begun").unwrap();
        let (left, _) = downloads.places("left").unwrap();
        for path in [&begun, &left, &folder.join("left.json"), &folder.join(Digest::of(b"abc").to_string())] {
            fs::write(path, [1; 5000]).unwrap();
        }
        let held = FileLock::exclusive(&lock).unwrap();
        let told = downloads.prune(true).unwrap();
        assert!(left.exists());
        let gone = downloads.prune(false).unwrap();
        assert_eq!(told, gone);
        assert_eq!(gone.len(), 3);
        assert!(gone.iter().all(|(_, bytes)| *bytes >= 4096));
        assert!(begun.exists() && !left.exists());
        drop(held);
        assert_eq!(downloads.prune(false).unwrap().len(), 1);
    }
}
