//! What is remembered of a project, in `VMM_HOME/projects/<id>`: which VMs are its own, what they were made from, which
//! scripts they have seen, and what its user trusts it with. Nothing of this lies in the project's folder: that comes
//! from strangers, is copied and is committed.
//!
//! A project is its folder's path, and the id is made of that. A folder that was moved is known again by its inode and
//! the moment of its birth, which no copy shares.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use snafu::{ResultExt, ensure};
use vmm_sys::FileLock;

use super::ProjectError;
use super::description::ONLY_MACHINE;
use super::error::{NewerRecordSnafu, WriteSnafu};
use super::wait::Waiter;
use crate::home::{self, Home, HomeError, Timestamp};
use crate::image::Digest;

const RECORD: &str = "project.json";
const LOCK: &str = "lock";

/// How often it is seen whether another command is done.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// So many scripts are remembered, the last ones: a machine has no more at a time.
const MOST_SCRIPTS: usize = 256;

/// So much of a folder's name is in the names of its VMs.
const LONGEST_SLUG: usize = 24;

/// So many digits tell the VMs of folders with the same name apart.
const TAG_LENGTH: usize = 6;

/// What is remembered of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProjectRecord {
    version: u32,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// What else the folder is known by.
    identity: Option<FolderIdentity>,
    /// What the names of its VMs have behind the folder's.
    tag: String,
    /// The question that its user said yes to: see `materials::outside`.
    pub(super) trusted: Option<Digest>,
    pub(super) machines: BTreeMap<String, MachineRecord>,
}

/// What is remembered of a machine of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineRecord {
    /// The name of its VM.
    pub(super) vm: String,
    /// What the VM was made or changed to, by the names of the keys.
    pub(super) applied: serde_json::Map<String, serde_json::Value>,
    /// The scripts that need not run again on this disk.
    pub(super) done: Vec<String>,
    /// The run of the VM that `run_done` is about, by when it was started.
    pub(super) run: Option<Timestamp>,
    /// The scripts that need not run again in that run.
    pub(super) run_done: Vec<String>,
}

impl MachineRecord {
    /// Remembers a script that has done what it should.
    pub(super) fn has_run(&mut self, script: &str, once: bool) {
        let done = if once { &mut self.done } else { &mut self.run_done };
        done.push(script.to_owned());
        let surplus = done.len().saturating_sub(MOST_SCRIPTS);
        done.drain(..surplus);
    }
}

/// What a folder is known by wherever it is moved to. Numbers of devices are no part of it: they change when the host
/// starts again. The birth tells it from another folder that got the inode of one that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FolderIdentity {
    inode: u64,
    born_s: u64,
    born_ns: u32,
}

impl FolderIdentity {
    /// `None`: the folder is gone, or its file system does not know when it was made.
    fn of(folder: &Path) -> Option<Self> {
        let metadata = fs::metadata(folder).ok()?;
        let born = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self { inode: metadata.ino(), born_s: born.as_secs(), born_ns: born.subsec_nanos() })
    }
}

impl ProjectRecord {
    const VERSION: u32 = 1;

    pub(super) fn new(folder: &Path) -> Self {
        let identity = FolderIdentity::of(folder);
        // Of the birth too: where a folder was moved away with its VMs, another one may have its path.
        let mut bytes = folder.as_os_str().as_bytes().to_owned();
        bytes.extend_from_slice(format!("\0{identity:?}").as_bytes());
        let mut tag = Digest::of(&bytes).to_string();
        tag.truncate(TAG_LENGTH);
        Self {
            version: Self::VERSION,
            folder: folder.to_owned(),
            identity,
            tag,
            trusted: None,
            machines: BTreeMap::new(),
        }
    }

    /// The name of the VM of a machine: it tells people whose it is, and is nobody else's.
    pub(super) fn vm_name(&self, machine: &str) -> String {
        let Self { folder, tag, .. } = self;
        let slug = slug(folder);
        if machine == ONLY_MACHINE { format!("{slug}-{tag}") } else { format!("{slug}-{tag}-{machine}") }
    }
}

/// The name of a folder as a part of a VM's name, and as a host name.
pub(super) fn slug(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let slug: String = name.chars().map(plain).take(LONGEST_SLUG).collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "project".to_owned() } else { slug.to_owned() }
}

/// Where a project of this path is remembered.
fn place(home: &Home, folder: &Path) -> PathBuf {
    let mut id = Digest::of(folder.as_os_str().as_bytes()).to_string();
    id.truncate(16);
    home.projects().join(id)
}

/// What is remembered of a project, and where.
pub(super) fn find(home: &Home, folder: &Path) -> Result<Option<(PathBuf, ProjectRecord)>, ProjectError> {
    let place = place(home, folder);
    if let Some(record) = read(&place)? {
        return Ok(Some((place, record)));
    }
    let Some(identity) = FolderIdentity::of(folder) else { return Ok(None) };
    let moved = all(home)?.into_iter().find(|(_, record)| {
        record.identity.as_ref() == Some(&identity)
            && FolderIdentity::of(&record.folder).as_ref() != Some(&identity)
    });
    Ok(moved)
}

/// What is remembered of every project. What cannot be read is left out: it must not keep anybody from the others.
pub(super) fn all(home: &Home) -> Result<Vec<(PathBuf, ProjectRecord)>, ProjectError> {
    let projects = home.projects();
    let entries = match fs::read_dir(&projects) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ProjectError::Folder { path: projects, source }),
    };
    let mut all: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let record = read(&entry.path()).unwrap_or_else(|error| {
                tracing::warn!(%error, "what is remembered of a project cannot be read");
                None
            });
            Some((entry.path(), record?))
        })
        .collect();
    all.sort_by(|(_, one), (_, other)| one.folder.cmp(&other.folder));
    Ok(all)
}

fn read(place: &Path) -> Result<Option<ProjectRecord>, ProjectError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let path = place.join(RECORD);
    let damaged = |error: HomeError| match error {
        HomeError::Damaged { path, source } => ProjectError::Record { path, source },
        error => error.into(),
    };
    // The version first: the rest of a newer one may not be what we know.
    let Some(Version { version }) = home::read_json(&path).map_err(damaged)? else { return Ok(None) };
    ensure!(version <= ProjectRecord::VERSION, NewerRecordSnafu { path });
    home::read_json(&path).map_err(damaged)
}

/// What is remembered of a project, ours alone: no other command is at work on it.
#[derive(Debug)]
pub(super) struct HeldRecord {
    place: PathBuf,
    pub(super) record: ProjectRecord,
    /// Where the folder was when its project was held last, if that was elsewhere.
    pub(super) moved_from: Option<PathBuf>,
    _lock: FileLock,
}

impl HeldRecord {
    /// Takes a project's record, and waits for another command that has it; `waiting` is told once.
    pub(super) fn hold(
        home: &Home,
        folder: &Path,
        waiter: &Waiter<'_>,
        waiting: &dyn Fn(),
    ) -> Result<Self, ProjectError> {
        home::private_folder(&home.projects())?;
        let mut told = false;
        loop {
            let place = Self::settle(home, folder)?;
            let path = place.join(LOCK);
            let lock = match FileLock::try_exclusive(&path) {
                // Whoever had it had nothing to remember, and has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.context(WriteSnafu { path: &path })?,
            };
            if let Some(lock) = lock {
                // Its last holder may have removed it between our open and our lock.
                if !is_at(&lock, &path) {
                    continue;
                }
                let found = read(&place)?;
                let mut record = found.unwrap_or_else(|| ProjectRecord::new(folder));
                let moved_from = (record.folder != folder).then(|| record.folder.clone());
                folder.clone_into(&mut record.folder);
                record.identity = FolderIdentity::of(folder);
                return Ok(Self { place, record, moved_from, _lock: lock });
            }
            if !std::mem::replace(&mut told, true) {
                waiting();
            }
            waiter.wait(LOCK_INTERVAL)?;
        }
    }

    /// The place of a project's record, made where it is missing. What is remembered of a folder that was moved moves.
    fn settle(home: &Home, folder: &Path) -> Result<PathBuf, ProjectError> {
        let place = place(home, folder);
        let path = home.projects().join(".lock");
        let _lock = FileLock::exclusive(&path).context(WriteSnafu { path: &path })?;
        if let Some((found, _)) = find(home, folder)?
            && found != place
        {
            // A folder without a record in it is one of a command that had nothing to remember.
            let _ = fs::remove_file(place.join(LOCK));
            let _ = fs::remove_dir(&place);
            fs::rename(&found, &place).context(WriteSnafu { path: &place })?;
        }
        home::private_folder(&place)?;
        Ok(place)
    }

    /// Sees what is remembered on the disk.
    pub(super) fn save(&self) -> Result<(), ProjectError> {
        let path = self.place.join(RECORD);
        let partial = path.with_extension("partial");
        home::write_partial(&partial, &self.record)?;
        home::sync(&[&partial])?;
        fs::rename(&partial, &path).context(WriteSnafu { path: &path })?;
        Ok(home::sync(&[&self.place])?)
    }

    /// Forgets the project.
    pub(super) fn forget(self) -> Result<(), ProjectError> {
        fs::remove_dir_all(&self.place).context(WriteSnafu { path: &self.place })
    }
}

impl Drop for HeldRecord {
    /// Leaves nothing of a project of which nothing is remembered.
    fn drop(&mut self) {
        if self.place.is_dir() && !self.place.join(RECORD).exists() {
            let _ = fs::remove_file(self.place.join(LOCK));
            let _ = fs::remove_dir(&self.place);
        }
    }
}

fn is_at(lock: &FileLock, path: &Path) -> bool {
    match (lock.file().metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}
