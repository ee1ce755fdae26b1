//! Whether files are still what was put into the store: every start asks, and nearly always for the price of a `stat`.
//!
//! Beside what it describes lies `.verified`, which remembers for each file the size, times and inode with which its
//! contents were last found good. Only a file that looks different is read again. Losing `.verified` costs a second
//! look, nothing else. What changes a file without changing its times (a failing disk) is found by a full
//! verification.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use snafu::ResultExt;

use super::digest::Digest;
use super::error::{Result, StorageSnafu};
use super::files;
use super::progress::{Progress, Stage, Step};
use super::record::{self, FileRecord};

pub(super) const INDEX: &str = ".verified";

/// How much older than the look at it a file's last change must be, in nanoseconds. The kernel's clock for files ticks
/// every few milliseconds: a change within the tick of another one is not seen in the times.
const SETTLED: i128 = 50_000_000;

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thoroughness {
    /// A file that looks as it did when it was last found good is good.
    Remembered,
    /// Every byte is read.
    Full,
}

/// A file that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) path: PathBuf,
    pub(crate) what: String,
}

/// The looks of a file whose contents were good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    size: u64,
    inode: u64,
    device: u64,
    modified_ns: i128,
    changed_ns: i128,
    checked_ns: i128,
    sha256: Digest,
}

impl Look {
    fn at(metadata: &Metadata, sha256: Digest, checked_ns: i128) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            device: metadata.dev(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            checked_ns,
            sha256,
        }
    }

    /// Whether no change can hide behind these times.
    fn is_settled(&self) -> bool {
        self.checked_ns - self.changed_ns.max(self.modified_ns) >= SETTLED
    }
}

/// Looks at files in a folder. The first that is not as its record says is told; `Ok(None)`: all are.
pub(crate) fn verify(
    folder: &Path,
    records: &[FileRecord],
    thoroughness: Thoroughness,
) -> Result<Option<Damage>> {
    verify_named(folder, records, thoroughness, INDEX, &())
}

/// The same, remembering it under a name of its own, for files that come and go beside the others, and telling how far
/// it is.
pub(super) fn verify_named(
    folder: &Path,
    records: &[FileRecord],
    thoroughness: Thoroughness,
    index: &str,
    progress: &dyn Progress,
) -> Result<Option<Damage>> {
    let index = folder.join(index);
    let known = match thoroughness {
        Thoroughness::Remembered => read_index(&index),
        Thoroughness::Full => BTreeMap::new(),
    };
    let mut seen = BTreeMap::new();
    for record in records {
        let path = folder.join(&record.name);
        let damage = |what: &str| Ok(Some(Damage { path: path.clone(), what: what.to_owned() }));
        if !record.stays_beneath() {
            return damage("its name leads out of its folder");
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return damage("it is missing"),
            Err(source) => return Err(source).context(StorageSnafu { action: "open", path }),
        };
        let storage = StorageSnafu { action: "read", path: &path };
        let metadata = file.metadata().context(storage)?;
        if metadata.size() != record.size {
            return damage("its size is wrong");
        }
        if let Some(look) = known.get(&record.name) {
            let unchanged = *look == Look::at(&metadata, record.sha256, look.checked_ns);
            if unchanged && look.is_settled() {
                seen.insert(record.name.clone(), look.clone());
                continue;
            }
        }
        let checked_ns = now();
        let (subject, total) = (record.name.as_str(), Some(record.size));
        let tell = |done| progress.step(Step { stage: Stage::Verifying, subject, done, total });
        let (sha256, _) = Digest::of_reader(&file, tell).context(storage)?;
        if sha256 != record.sha256 {
            return damage("its contents have changed");
        }
        seen.insert(record.name.clone(), Look::at(&metadata, sha256, checked_ns));
    }
    if seen != known {
        write_index(&index, &seen);
    }
    Ok(None)
}

fn read_index(path: &Path) -> BTreeMap<String, Look> {
    let contents = files::read(path, record::LARGEST);
    contents.ok().flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers. That it fails, as in a store that is read-only, costs time and nothing else.
fn write_index(path: &Path, looks: &BTreeMap<String, Look>) {
    let write = || -> io::Result<()> {
        // Several may do so at once: each writes a file of its own, and the last one stays.
        let own = files::own_partial_of(path);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&own)?;
        file.write_all(&serde_json::to_vec(looks)?)?;
        std::fs::rename(&own, path)
    };
    if let Err(error) = write() {
        tracing::debug!(path = %path.display(), %error, "cannot remember what was verified");
    }
}

fn now() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests;
