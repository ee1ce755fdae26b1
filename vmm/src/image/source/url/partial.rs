//! A download that may not be complete: its bytes, what is known of the file that they are of, and the lock of whoever
//! fetches it. It outlives the pull that began it, however that ended.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snafu::ResultExt;
use vmm_sys::FileLock;

use super::super::super::error::{Result, StorageSnafu};
use super::super::super::{files, record};
use super::request::Head;

/// What is known of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Where it comes from.
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Its whole length.
    total: Option<u64>,
}

/// A download at work.
#[derive(Debug)]
pub(in crate::image) struct Partial {
    data: PathBuf,
    record: PathBuf,
    file: File,
    length: u64,
    known: Known,
    _lock: FileLock,
}

impl Partial {
    /// Opens what an earlier pull left, or begins anew. Nobody else has the lock's download at work.
    pub(super) fn open(data: PathBuf, url: &str, lock: FileLock) -> Result<Self> {
        let record = data.with_extension("json");
        let known = files::read(&record, record::LARGEST).ok().flatten();
        let known = known.and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
        let storage = StorageSnafu { action: "open", path: &data };
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).mode(0o600).open(&data).context(storage)?;
        let length = file.metadata().context(storage)?.len();
        let mut partial = Self {
            data,
            record,
            file,
            length,
            known: Known { url: url.to_owned(), ..Known::default() },
            _lock: lock,
        };
        match known {
            Some(known) if known.url == url => partial.known = known,
            // Bytes of which nothing is known are of no use.
            _ => partial.empty()?,
        }
        Ok(partial)
    }

    /// How many bytes are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How long the whole file is, where the server has said it.
    pub(super) fn total(&self) -> Option<u64> {
        self.known.total
    }

    /// By what the server can tell that the file is still the same. A weak tag is none (RFC 9110, 13.1.5).
    pub(super) fn validator(&self) -> Option<&str> {
        let strong = self.known.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.known.last_modified.as_deref())
    }

    /// Whether an answer is of the file that the bytes are of, as far as it says.
    pub(super) fn is_continued_by(&self, head: &Head) -> bool {
        let same = |ours: &Option<String>, theirs: &Option<String>| match (ours, theirs) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        let Some((first, total)) = head.range else { return false };
        let total_fits = match (total, self.known.total) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        };
        first == self.length
            && total_fits
            && same(&self.known.etag, &head.etag)
            && same(&self.known.last_modified, &head.last_modified)
    }

    /// Forgets all bytes.
    pub(super) fn empty(&mut self) -> Result<()> {
        self.file.set_len(0).context(StorageSnafu { action: "empty", path: &self.data })?;
        self.length = 0;
        Ok(())
    }

    /// Begins with the first byte of what this head tells of.
    pub(super) fn begin(&mut self, head: &Head, total: Option<u64>) -> Result<()> {
        self.empty()?;
        self.known.etag.clone_from(&head.etag);
        self.known.last_modified.clone_from(&head.last_modified);
        self.known.total = total;
        // A record beside its place: a death leaves the old one, or the new one. No bytes are there yet that it could be
        // wrong about.
        let partial = files::partial_of(&self.record);
        files::remove_file(&partial)?;
        let bytes = serde_json::to_vec(&self.known)
            .map_err(std::io::Error::from)
            .context(StorageSnafu { action: "record", path: &self.record })?;
        files::write_unsynced(&partial, &bytes)?;
        files::rename_unsynced(&partial, &self.record)
    }

    /// Adds bytes at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(StorageSnafu { action: "write", path: &self.data })?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The file with the bytes.
    pub(in crate::image) fn path(&self) -> &Path {
        &self.data
    }

    /// Gives the file that is complete its place.
    pub(in crate::image) fn finish(self, destination: &Path) -> Result<()> {
        files::sync(&self.file, &self.data)?;
        files::rename_unsynced(&self.data, destination)?;
        files::remove_file(&self.record)
    }

    /// Removes what is of no use.
    pub(in crate::image) fn discard(self) -> Result<()> {
        files::remove_file(&self.data)?;
        files::remove_file(&self.record)
    }
}

/// Whether a name in the folder of downloads is of an incomplete one.
pub(in crate::image) fn is_partial(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "partial" || end == "json")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn head(etag: &str, range: Option<(u64, Option<u64>)>) -> Head {
        Head {
            status: 206,
            status_line: String::new(),
            length: None,
            range,
            etag: Some(etag.to_owned()),
            last_modified: None,
        }
    }

    fn open(folder: &Path, url: &str) -> Partial {
        let lock = FileLock::exclusive(&folder.join(".lock")).unwrap();
        Partial::open(folder.join("x.partial"), url, lock).unwrap()
    }

    #[test]
    fn what_was_begun_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = open(folder.path(), "http://a/x");
        partial.begin(&head("\"1\"", None), Some(10)).unwrap();
        partial.append(b"abc").unwrap();
        drop(partial);
        let partial = open(folder.path(), "http://a/x");
        assert_eq!((partial.length(), partial.total(), partial.validator()), (3, Some(10), Some("\"1\"")));
        assert!(partial.is_continued_by(&head("\"1\"", Some((3, Some(10))))));
        assert!(!partial.is_continued_by(&head("\"1\"", Some((0, Some(10))))));
        assert!(!partial.is_continued_by(&head("\"1\"", Some((3, Some(11))))));
        assert!(!partial.is_continued_by(&head("\"2\"", Some((3, Some(10))))));
        assert!(!partial.is_continued_by(&head("\"1\"", None)));
        partial.finish(&folder.path().join("done")).unwrap();
        assert_eq!(fs::read(folder.path().join("done")).unwrap(), b"abc");
        assert!(!folder.path().join("x.json").exists());
    }

    #[test]
    fn bytes_of_another_file_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut partial = open(folder.path(), "http://a/x");
        partial.begin(&head("W/\"1\"", None), Some(10)).unwrap();
        partial.append(b"abc").unwrap();
        assert_eq!(partial.validator(), None);
        drop(partial);
        assert_eq!(open(folder.path(), "http://b/x").length(), 0);
        // As are those of which nothing is known.
        fs::write(folder.path().join("x.partial"), b"abc").unwrap();
        fs::remove_file(folder.path().join("x.json")).unwrap();
        assert_eq!(open(folder.path(), "http://a/x").length(), 0);
    }
}
