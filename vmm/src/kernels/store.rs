//! The store of kernels that were built here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snafu::{OptionExt, ResultExt, ensure};
use vmm_sys::FileLock;

use super::error::{BusySnafu, DamagedSnafu, ExistsSnafu, Result, SystemSnafu, UnknownSnafu};
use super::fragments::Purpose;
use super::name::KernelName;
use crate::arch::Arch;
use crate::home::{Home, Timestamp};
use crate::image::Digest;
use crate::image::files;
use crate::image::record::{self, FileRecord, Refusal};
use crate::image::verify::{self, Damage, Thoroughness};

/// What an engine loads, what it was built with, and that there are no modules for it.
pub(super) const KERNEL: &str = "vmlinux";
pub(super) const CONFIGURATION: &str = "config";
pub(super) const MODULES: &str = "modules";
const RECORD: &str = "kernel.json";

/// The kernels of a home. Several processes may use it at once.
///
/// ```text
/// kernels/<name>/            kernel.json  vmlinux  config  modules/ (empty: all that is needed is built in)
/// kernels/<name>.partial/    a build at work, or what one left that died
/// kernels/.choices.json      which kernel boots what
/// ```
#[derive(Clone, Debug)]
pub struct KernelStore {
    pub(super) folder: PathBuf,
}

/// A kernel of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKernel {
    folder: PathBuf,
    record: Record,
}

/// What `kernel.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: KernelName,
    pub(super) arch: Arch,
    /// The version of its source.
    pub(super) version: String,
    /// What `uname -r` says.
    pub(super) release: String,
    pub(super) purposes: Vec<Purpose>,
    /// What it was built of, by its name and the digest of its content.
    pub(super) source: String,
    pub(super) source_sha256: Digest,
    pub(super) built: Timestamp,
    pub(super) files: Vec<FileRecord>,
}

/// All that is known of a kernel of the store.
#[derive(Clone, Debug, Serialize)]
pub struct KernelDetails {
    /// Its name.
    pub name: KernelName,
    /// The machines that it is for.
    pub arch: Arch,
    /// The version of its source.
    pub version: String,
    /// What `uname -r` says.
    pub release: String,
    /// The fragments beside the base, in order.
    pub fragments: Vec<Purpose>,
    /// The name of the tree or the tarball that it was built of.
    pub source: String,
    /// The digest of its content.
    pub source_sha256: Digest,
    /// When it was built.
    pub built: Timestamp,
    /// The file that an engine loads.
    pub kernel: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
    /// What it was built with.
    pub configuration: PathBuf,
}

impl StoredKernel {
    /// Its name.
    pub fn name(&self) -> &KernelName {
        &self.record.name
    }

    /// The machines that it is for.
    pub fn arch(&self) -> Arch {
        self.record.arch
    }

    /// What `uname -r` says in a machine that boots it.
    pub fn release(&self) -> &str {
        &self.record.release
    }

    /// The file that an engine loads.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(KERNEL)
    }

    /// What it was built with.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join(CONFIGURATION)
    }

    /// The folder of its modules, in which there are none: what it can do is built in.
    pub fn modules(&self) -> PathBuf {
        self.folder.join(MODULES)
    }

    /// The digest of the file that an engine loads.
    pub fn sha256(&self) -> Digest {
        let kernel = self.record.files.iter().find(|record| record.name == KERNEL);
        kernel.map_or(Digest::of(b""), |record| record.sha256)
    }

    /// All that is known of it.
    pub fn details(&self) -> KernelDetails {
        let size =
            self.record.files.iter().find(|record| record.name == KERNEL).map_or(0, |record| record.size);
        let Record { name, arch, version, release, purposes, source, source_sha256, built, .. } =
            self.record.clone();
        KernelDetails {
            name,
            arch,
            version,
            release,
            fragments: purposes,
            source,
            source_sha256,
            built,
            kernel: self.kernel(),
            size,
            sha256: self.sha256(),
            configuration: self.configuration(),
        }
    }
}

impl KernelStore {
    /// The kernels of a home.
    pub fn of(home: &Home) -> Self {
        Self::beneath(home.root())
    }

    /// The kernels of the home that a folder is.
    pub(crate) fn beneath(root: &Path) -> Self {
        Self { folder: root.join("kernels") }
    }

    /// All kernels, by name. Those whose record cannot be read are left out, with a warning in the log.
    pub fn list(&self) -> Result<Vec<StoredKernel>> {
        let mut kernels = Vec::new();
        for name in self.names()? {
            match self.load(&name) {
                Ok(kernel) => kernels.extend(kernel),
                Err(error) => tracing::warn!(%name, %error, "a kernel cannot be read"),
            }
        }
        Ok(kernels)
    }

    /// The kernel of a name, found good.
    pub fn find(&self, name: &KernelName) -> Result<StoredKernel> {
        let there = || self.names().unwrap_or_default().iter().map(KernelName::to_string).collect::<Vec<_>>();
        let kernel =
            self.load(name)?.with_context(|| UnknownSnafu { name: name.as_str(), there: there() })?;
        match verify::verify(&kernel.folder, &kernel.record.files, Thoroughness::Remembered)? {
            Some(Damage { path, what }) => DamagedSnafu { name: name.as_str(), path, what }.fail(),
            None => Ok(kernel),
        }
    }

    /// Whether there is a kernel of this name.
    pub fn has(&self, name: &KernelName) -> bool {
        self.folder_of(name).is_dir()
    }

    /// Removes a kernel. That nothing boots it is the caller's knowledge.
    pub(crate) fn remove(&self, name: &KernelName) -> Result<()> {
        let _lock = self.lock(name)?;
        let folder = self.folder_of(name);
        let there = || self.names().unwrap_or_default().iter().map(KernelName::to_string).collect::<Vec<_>>();
        ensure!(folder.is_dir(), UnknownSnafu { name: name.as_str(), there: there() });
        let partial = files::partial_of(&folder);
        files::remove_folder(&partial)?;
        files::rename(&folder, &partial)?;
        Ok(files::remove_folder(&partial)?)
    }

    /// The names of all kernels, in order.
    fn names(&self) -> Result<Vec<KernelName>> {
        let names = files::names_in(&self.folder)?.into_iter().filter_map(|name| name.parse().ok());
        Ok(names.filter(|name| self.has(name)).collect())
    }

    pub(super) fn folder_of(&self, name: &KernelName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    /// Where what a failed build said is kept.
    pub(super) fn log_of(&self, name: &KernelName) -> PathBuf {
        self.folder.join(format!(".{name}.log"))
    }

    /// Whoever builds or removes a kernel is alone with its name.
    pub(super) fn lock(&self, name: &KernelName) -> Result<FileLock> {
        files::make_folder(&self.folder)?;
        let path = self.folder.join(format!(".{name}.lock"));
        let lock = FileLock::try_exclusive(&path);
        let lock = lock.with_context(|_| SystemSnafu { what: format!("lock {}", path.display()) })?;
        lock.context(BusySnafu { name: name.as_str() })
    }

    pub(super) fn check_free(&self, name: &KernelName) -> Result<()> {
        ensure!(!self.has(name), ExistsSnafu { name: name.as_str() });
        Ok(())
    }

    /// Writes the record of a kernel whose files are in `partial`, sees all of it on the disk, and gives it its place.
    pub(super) fn publish(&self, mut record: Record, partial: &Path) -> Result<StoredKernel> {
        for name in [KERNEL, CONFIGURATION] {
            let path = partial.join(name);
            let read = || {
                let file = fs::File::open(&path)?;
                // The tools that made it left it open to others.
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.sync_all()?;
                Digest::of_reader(&file, |_| {})
            };
            let read = read().with_context(|_| SystemSnafu { what: format!("read {}", path.display()) });
            let (sha256, size) = read?;
            record.files.push(FileRecord { name: name.to_owned(), size, sha256 });
        }
        let bytes = record::to_bytes(&record).map_err(std::io::Error::from);
        let bytes = bytes.with_context(|_| SystemSnafu { what: "record the kernel".to_owned() })?;
        files::make_folder(&partial.join(MODULES))?;
        files::write_new(&partial.join(RECORD), &bytes)?;
        files::sync_folder(partial)?;
        let folder = self.folder_of(&record.name);
        files::rename(partial, &folder)?;
        Ok(StoredKernel { folder, record })
    }

    fn load(&self, name: &KernelName) -> Result<Option<StoredKernel>> {
        let folder = self.folder_of(name);
        if !folder.is_dir() {
            return Ok(None);
        }
        let path = folder.join(RECORD);
        let damaged = |what: &'static str| DamagedSnafu { name: name.as_str(), path: &path, what };
        let bytes = files::read(&path, record::LARGEST)?.with_context(|| damaged("it is missing"))?;
        let record: Record = match record::from_bytes(&bytes) {
            Ok(record) => record,
            Err(Refusal::Newer) => return damaged("a newer vmm wrote it").fail(),
            Err(Refusal::Damaged(what)) => return damaged(what).fail(),
        };
        let whole = record.name == *name && record.files.iter().any(|record| record.name == KERNEL);
        ensure!(whole, damaged("it describes another kernel"));
        Ok(Some(StoredKernel { folder, record }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernels::KernelsError;

    /// A store with nothing in it.
    pub(in crate::kernels) fn store(folder: &Path) -> KernelStore {
        KernelStore { folder: folder.join("kernels") }
    }

    /// Puts a kernel into a store as a build does at its end.
    pub(in crate::kernels) fn add(store: &KernelStore, name: &str, contents: &[u8]) -> StoredKernel {
        let name: KernelName = name.parse().unwrap();
        let partial = files::partial_of(&store.folder_of(&name));
        files::make_folder(&partial).unwrap();
        fs::write(partial.join(KERNEL), contents).unwrap();
        fs::write(partial.join(CONFIGURATION), b"CONFIG_X86_64=y\n").unwrap();
        let record = Record {
            name,
            arch: Arch::X86_64,
            version: "6.12.1".into(),
            release: "6.12.1-vmm".into(),
            purposes: vec![Purpose::Fast],
            source: "linux.tar.xz".into(),
            source_sha256: Digest::of(b"source"),
            built: Timestamp::now(),
            files: Vec::new(),
        };
        store.publish(record, &partial).unwrap()
    }

    #[test]
    fn a_kernel_is_found_again_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        assert!(store.list().unwrap().is_empty());
        let fast = add(&store, "fast", b"a kernel");
        let slow = add(&store, "slow", b"another");
        assert_eq!(store.list().unwrap(), [fast.clone(), slow]);
        assert_eq!(store.find(fast.name()).unwrap(), fast);
        assert_eq!(fast.sha256(), Digest::of(b"a kernel"));
        for path in [fast.kernel(), fast.configuration()] {
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                path.display()
            );
        }
        store.remove(fast.name()).unwrap();
        let error = store.find(fast.name()).unwrap_err().to_string();
        assert_eq!(error, "there is no kernel fast: there are slow");
        assert!(matches!(store.remove(fast.name()), Err(KernelsError::Unknown { .. })));
    }

    #[test]
    fn a_kernel_that_has_changed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let fast = add(&store, "fast", b"a kernel");
        fs::write(fast.kernel(), b"no kernel").unwrap();
        assert!(store.find(fast.name()).unwrap_err().to_string().contains("is damaged: its size is wrong"));
        fs::write(fast.kernel(), b"b kernel").unwrap();
        let error = store.find(fast.name()).unwrap_err().to_string();
        assert!(
            error.contains("its contents have changed") && error.contains("vmm kernel rm fast"),
            "{error}"
        );
        fs::write(fast.folder.join(RECORD), b"{}").unwrap();
        assert!(matches!(store.find(fast.name()), Err(KernelsError::Damaged { .. })));
        assert!(store.list().unwrap().is_empty());
        store.remove(fast.name()).unwrap();
    }

    #[test]
    fn what_a_dead_build_left_is_no_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        fs::create_dir_all(store.folder.join("fast.partial")).unwrap();
        assert!(store.list().unwrap().is_empty());
        let _lock = store.lock(&"fast".parse().unwrap()).unwrap();
        let other = store.lock(&"fast".parse().unwrap()).unwrap_err();
        assert_eq!(other.to_string(), "the kernel fast is being built or removed by another process");
    }
}
