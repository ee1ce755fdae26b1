//! Remembers what was learned of a QEMU, by the identity of its file and of the libraries' index.

use std::collections::hash_map::DefaultHasher;
use std::fs::Metadata;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::qemu::Qemu;
use crate::engine::cache;

/// Where it is remembered; nowhere, when there is no folder for it.
#[derive(Clone, Debug, Default)]
pub(super) struct QemuCache {
    folder: Option<PathBuf>,
}

/// What must be the same for the memory to be true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    program: FileIdentity,
    /// The dynamic loader's index: it changes when libraries are installed or removed.
    library_index: Option<FileIdentity>,
    /// Of our own format.
    format: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Entry {
    identity: Identity,
    qemu: Qemu,
}

/// Raised whenever [`Qemu`] gets or loses a field.
const FORMAT: u32 = 1;

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl QemuCache {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// What was learned of this very program, if nothing has changed since.
    pub(super) fn recall(&self, program: &Path) -> Option<Qemu> {
        let text = std::fs::read(self.file(program)?).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.identity == identity(program)? && entry.qemu.path == program).then_some(entry.qemu)
    }

    /// Remembers; a folder that cannot be written only means that it is asked again.
    pub(super) fn remember(&self, qemu: &Qemu) {
        if let Err(error) = self.try_remember(qemu) {
            tracing::debug!(%error, "cannot remember what was learned of QEMU");
        }
    }

    /// Forgets a program that did not keep its promise.
    pub(super) fn forget(&self, program: &Path) {
        if let Some(file) = self.file(program) {
            let _ = std::fs::remove_file(file);
        }
    }

    fn try_remember(&self, qemu: &Qemu) -> std::io::Result<()> {
        let (Some(file), Some(identity)) = (self.file(&qemu.path), identity(&qemu.path)) else {
            return Ok(());
        };
        cache::write(&file, serde_json::to_vec(&Entry { identity, qemu: qemu.clone() })?)
    }

    fn file(&self, program: &Path) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        program.hash(&mut hasher);
        Some(self.folder.as_ref()?.join(format!("qemu-{:016x}.json", hasher.finish())))
    }
}

fn identity(program: &Path) -> Option<Identity> {
    Some(Identity {
        program: FileIdentity::from(&program.metadata().ok()?),
        library_index: Path::new("/etc/ld.so.cache").metadata().ok().map(|metadata| (&metadata).into()),
        format: FORMAT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::software::qemu::QemuVersion;

    fn qemu(path: &Path) -> Qemu {
        Qemu {
            path: path.to_owned(),
            version: QemuVersion { major: 10, minor: 0, micro: 2 },
            machines: vec!["microvm".to_owned()],
            sandbox: true,
            libraries: vec!["/lib/libc.so.6".into()],
            is_static: false,
            firmware_folders: Vec::new(),
        }
    }

    #[test]
    fn a_program_is_remembered_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        std::fs::write(&program, "one").unwrap();
        let cache = QemuCache::new(Some(folder.path().join("cache")));
        assert_eq!(cache.recall(&program), None);
        cache.remember(&qemu(&program));
        assert_eq!(cache.recall(&program), Some(qemu(&program)));
        std::fs::write(&program, "another").unwrap();
        assert_eq!(cache.recall(&program), None);
        cache.remember(&qemu(&program));
        cache.forget(&program);
        assert_eq!(cache.recall(&program), None);
    }

    #[test]
    fn a_torn_memory_is_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        std::fs::write(&program, "one").unwrap();
        let cache = QemuCache::new(Some(folder.path().to_owned()));
        cache.remember(&qemu(&program));
        let file = cache.file(&program).unwrap();
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert_eq!(cache.recall(&program), None);
    }
}
