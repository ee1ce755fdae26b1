//! The VMs of a home: creating them, their names, finding them, and clearing away what dead monitors left.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::str::FromStr;

use snafu::ResultExt;
use vmm_sys::FileLock;

use super::error::{FolderSnafu, WriteSnafu};
use super::folder::{REMOVED, finish_removal, remove_all};
use super::{HeldVm, Home, HomeError, VmFolder, VmId, VmName};

impl Home {
    /// Creates the folder of a new VM, held by us, and gives it its name. Of two that want one name, one gets it.
    ///
    /// The VM is complete when its `spec.json` is written; until then it is cleared away when its holder dies.
    pub fn create(&self, name: Option<&VmName>) -> Result<HeldVm, HomeError> {
        let _lock = self.lock()?;
        let id = loop {
            let id = VmId::random().context(WriteSnafu { path: self.vms() })?;
            if !self.folder(&id).path().exists() {
                break id;
            }
        };
        let held = HeldVm::create(self.folder(&id))?;
        let Some(name) = name else { return Ok(held) };
        match self.claim(name, &id) {
            Ok(()) => Ok(held),
            Err(error) => {
                held.remove()?;
                Err(error)
            }
        }
    }

    /// Points a name to a VM, exclusively. Called under the home's lock.
    ///
    /// A name is whose description says so. A link to a VM that is called otherwise was left by a change of names that was
    /// cut off.
    pub(super) fn claim(&self, name: &VmName, id: &VmId) -> Result<(), HomeError> {
        let link = self.names().join(name.as_str());
        let target = Path::new("../vms").join(id.as_str());
        // Twice: what is in the way may be the name of a VM that is gone.
        for _ in 0..2 {
            match symlink(&target, &link) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(HomeError::Write { path: link, source }),
            }
            let abandoned = match self.named(name).map(|folder| (folder.spec(), folder)) {
                None => true,
                Some((_, folder)) if folder.id() == id => return Ok(()),
                Some((Ok(Some(spec)), _)) => spec.name.as_ref() != Some(name),
                Some((Ok(None), folder)) => clear(&folder)?,
                // A person must decide.
                Some((Err(_), _)) => false,
            };
            if !abandoned {
                break;
            }
            let _ = fs::remove_file(&link);
        }
        Err(HomeError::NameInUse { name: name.clone() })
    }

    /// Takes the names of a VM away from it, but for one that it keeps.
    pub(super) fn release_names_of(&self, id: &VmId, kept: Option<&VmName>) -> Result<(), HomeError> {
        let names = self.names();
        for entry in fs::read_dir(&names).context(FolderSnafu { path: &names })?.flatten() {
            let is_kept = kept.is_some_and(|kept| entry.file_name() == kept.as_str());
            if !is_kept && id_at(&entry.path()).as_ref() == Some(id) {
                let path = entry.path();
                fs::remove_file(&path).context(WriteSnafu { path })?;
            }
        }
        Ok(())
    }

    /// The VM with this id, whether there is one or not.
    pub fn folder(&self, id: &VmId) -> VmFolder {
        VmFolder::new(self, id.clone())
    }

    /// Every VM of this home that is complete, by id.
    pub fn folders(&self) -> Result<Vec<VmFolder>, HomeError> {
        let mut ids = self.ids()?;
        ids.sort();
        let folders = ids.iter().map(|id| self.folder(id));
        Ok(folders.filter(|folder| folder.path().join("spec.json").exists()).collect())
    }

    /// Every VM of this home, complete or not.
    pub fn all_folders(&self) -> Result<Vec<VmFolder>, HomeError> {
        Ok(self.ids()?.iter().map(|id| self.folder(id)).collect())
    }

    /// Finds a VM by its name, its id or the beginning of its id.
    pub fn find(&self, wanted: &str) -> Result<VmFolder, HomeError> {
        let named = VmName::from_str(wanted).ok().and_then(|name| self.named(&name));
        if let Some(folder) = named {
            return Ok(folder);
        }
        let mut matching = self.folders()?;
        matching.retain(|folder| !wanted.is_empty() && folder.id().as_str().starts_with(wanted));
        match (matching.pop(), matching.is_empty()) {
            (Some(folder), true) => Ok(folder),
            (Some(_), false) => Err(HomeError::Ambiguous { prefix: wanted.to_owned() }),
            (None, _) => {
                let names = self.all_names()?;
                let nearest = nearest_name(wanted, names.iter().map(String::as_str)).map(str::to_owned);
                Err(HomeError::NoSuchVm { wanted: wanted.to_owned(), nearest })
            }
        }
    }

    /// Clears away what is left of VMs whose processes are gone: those without a name, and those half made or half
    /// removed. One that another command is at work on is left alone. Cheap where there is nothing to do.
    pub fn clear_leftovers(&self) -> Result<(), HomeError> {
        // Under the lock no VM is being made, so one that nobody holds is nobody's.
        let Some(_lock) =
            FileLock::try_exclusive(&self.lock_path()).context(WriteSnafu { path: self.lock_path() })?
        else {
            return Ok(());
        };
        let vms = self.vms();
        for entry in fs::read_dir(&vms).context(FolderSnafu { path: &vms })?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(REMOVED)
                && let Err(error) = finish_removal(self, &entry.path(), true)
            {
                tracing::warn!(%error, "cannot clear away what is left of a VM");
            }
        }
        for id in self.ids()? {
            let folder = self.folder(&id);
            // A damaged one is kept: a person must decide.
            let Ok(spec) = folder.spec() else { continue };
            if spec.is_none_or(|spec| spec.ephemeral())
                && let Err(error) = clear(&folder)
            {
                // It must not keep anybody from the other VMs.
                tracing::warn!(%id, %error, "cannot clear away what is left of a VM");
            }
        }
        Ok(())
    }

    fn lock_path(&self) -> std::path::PathBuf {
        self.vms().join(".lock")
    }

    /// Waits until nobody begins to make a VM, and keeps it so while the lock is held. VMs that were begun before are made
    /// further.
    pub fn lock(&self) -> Result<FileLock, HomeError> {
        let path = self.lock_path();
        FileLock::exclusive(&path).context(WriteSnafu { path })
    }

    /// Keeps layers from getting another owner while it is looked who owns them, and the other way round.
    pub(crate) fn lock_owners(&self) -> Result<FileLock, HomeError> {
        let path = self.vms().join(".owners");
        FileLock::exclusive(&path).context(WriteSnafu { path })
    }

    fn named(&self, name: &VmName) -> Option<VmFolder> {
        let folder = self.folder(&id_at(&self.names().join(name.as_str()))?);
        folder.path().exists().then_some(folder)
    }

    pub(super) fn ids(&self) -> Result<Vec<VmId>, HomeError> {
        let vms = self.vms();
        let entries = fs::read_dir(&vms).context(FolderSnafu { path: &vms })?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| VmId::try_from(name).ok()).collect())
    }

    fn all_names(&self) -> Result<Vec<String>, HomeError> {
        let names = self.names();
        let entries = fs::read_dir(&names).context(FolderSnafu { path: &names })?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

/// Removes a VM that nobody holds; says whether it is gone.
fn clear(folder: &VmFolder) -> Result<bool, HomeError> {
    match folder.try_hold() {
        Ok(Some(held)) => held.remove().map(|()| true),
        Ok(None) => Ok(false),
        // Its maker died before there was a lock, or its remover has just been here.
        Err(HomeError::NoSuchVm { .. }) => {
            let path = folder.path();
            remove_all(&path).context(FolderSnafu { path }).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// The id that a name's link leads to.
fn id_at(link: &Path) -> Option<VmId> {
    let target = fs::read_link(link).ok()?;
    VmId::try_from(target.file_name()?.to_str()?.to_owned()).ok()
}

/// The name that takes the fewest changes to become `wanted`, if they are few.
pub fn nearest_name<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.into_iter().map(|name| (distance(wanted, name), name));
    let (changes, name) = near.min()?;
    (changes <= 1 + wanted.chars().count() / 4).then_some(name)
}

/// How many characters are added, removed, replaced, or changed places with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    // Of the beginnings of both, so many characters long.
    let mut table = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            table[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = table[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                let swapped = if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                    table[i - 2][j - 2] + 1
                } else {
                    usize::MAX
                };
                replaced.min(swapped).min(table[i - 1][j] + 1).min(table[i][j - 1] + 1)
            };
        }
    }
    table[from.len()][to.len()]
}
