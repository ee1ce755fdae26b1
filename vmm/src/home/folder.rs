//! The folder of one VM, and its lock: whoever holds the lock has the VM. The kernel drops it when its holder dies,
//! so a lock that is free means that nothing of the VM lives.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use snafu::{OptionExt, ResultExt};
use vmm_sys::FileLock;
use vmm_sys::file::if_there;

use super::error::{BusySnafu, FolderSnafu, ReadSnafu, WriteSnafu};
use super::{Home, HomeError, StateRecord, VmId, VmSpec, files};

/// The file that names what goes with a VM.
const OWNED: &str = "owns.json";

/// The file that names what a VM has given up and is still to be removed.
const DROPPED: &str = "drops.json";

/// The folder of all layers, beneath the home.
const LAYERS: &str = "layers";

/// Beside the data of a layer that an image stands on: it does not go with the VM that owns it. The image store writes it.
pub(crate) const KEPT: &str = "kept";

/// What the name of a VM's folder begins with while it is being removed.
pub(super) const REMOVED: &str = ".removed-";

/// The folder of one VM. That it exists says nothing of the VM: see [`VmFolder::hold`] and `state.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFolder {
    home: Home,
    id: VmId,
}

impl VmFolder {
    pub(super) fn new(home: &Home, id: VmId) -> Self {
        Self { home: home.clone(), id }
    }

    /// The VM's id.
    pub fn id(&self) -> &VmId {
        &self.id
    }

    /// The home that it lies in.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The folder itself.
    pub fn path(&self) -> PathBuf {
        self.home.vms().join(self.id.as_str())
    }

    /// What the guest wrote to its console.
    pub fn console_log(&self) -> PathBuf {
        self.path().join("console.log")
    }

    /// What was on the console before [`VmFolder::console_log`] reached its bound.
    pub fn console_log_older(&self) -> PathBuf {
        self.path().join("console.log.1")
    }

    /// When the guest wrote what is in [`VmFolder::console_log`]: see [`super::ConsoleTime`].
    pub fn console_times(&self) -> PathBuf {
        self.path().join("console.times")
    }

    /// The same of [`VmFolder::console_log_older`].
    pub fn console_times_older(&self) -> PathBuf {
        self.path().join("console.times.1")
    }

    /// What the monitor has to say of itself.
    pub fn monitor_log(&self) -> PathBuf {
        self.path().join("monitor.log")
    }

    /// The folder for its sockets, there while it runs. A monitor that runs recorded its own
    /// ([`StateRecord::sockets`]), which differs where another session has another runtime folder.
    pub fn sockets(&self) -> PathBuf {
        self.home.runtime().join(self.id.as_str())
    }

    /// The monitor's control socket in that folder.
    pub fn control_socket(sockets: &Path) -> PathBuf {
        sockets.join("control")
    }

    /// The host's side of the VM's vsock device in that folder.
    pub fn vsock_socket(sockets: &Path) -> PathBuf {
        sockets.join("vsock")
    }

    /// What the VM is. `None`: the folder is not complete, or gone.
    pub fn spec(&self) -> Result<Option<VmSpec>, HomeError> {
        files::read_json(&self.path().join("spec.json"))
    }

    /// What was recorded of its last run. `None`: it never ran.
    pub fn state(&self) -> Result<Option<StateRecord>, HomeError> {
        files::read_json(&self.path().join("state.json"))
    }

    /// The folders beneath the home that go when the VM goes.
    pub fn owned(&self) -> Result<Vec<PathBuf>, HomeError> {
        Ok(files::read_json(&self.path().join(OWNED))?.unwrap_or_default())
    }

    /// Takes the VM's lock. Fails where another process has it, and where the VM is gone.
    pub fn hold(&self) -> Result<HeldVm, HomeError> {
        self.try_hold()?.context(BusySnafu { name: self.id.as_str() })
    }

    /// Takes the VM's lock. `None`: another process has it, and so the VM lives or is at work.
    pub fn try_hold(&self) -> Result<Option<HeldVm>, HomeError> {
        let lock = self.try_lock(FileLock::try_exclusive_file)?;
        Ok(lock.map(|lock| HeldVm { folder: self.clone(), lock }))
    }

    fn try_lock(
        &self,
        try_lock: impl Fn(File) -> io::Result<Option<FileLock>>,
    ) -> Result<Option<FileLock>, HomeError> {
        let path = self.lock_path();
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(HomeError::NoSuchVm { wanted: self.id.to_string(), nearest: None });
            }
            Err(source) => return Err(HomeError::Read { path, source }),
        };
        let Some(lock) = try_lock(file).context(ReadSnafu { path: &path })? else { return Ok(None) };
        // Its last holder may have removed the VM between our open and our lock.
        if !is_at(lock.file(), &path) {
            return Err(HomeError::NoSuchVm { wanted: self.id.to_string(), nearest: None });
        }
        Ok(Some(lock))
    }

    /// Whether a process has the VM. Others who look at the same time are none that has it.
    pub fn is_held(&self) -> Result<bool, HomeError> {
        Ok(self.try_lock(FileLock::try_shared_file)?.is_none())
    }

    /// Waits until no other client changes the disk of this VM while it runs. Whoever changes that of one that does not run
    /// holds the VM instead.
    pub fn lock_changes(&self) -> Result<FileLock, HomeError> {
        let path = self.path().join("changes.lock");
        FileLock::exclusive(&path).context(WriteSnafu { path })
    }

    fn lock_path(&self) -> PathBuf {
        self.path().join("lock")
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => ours.dev() == there.dev() && ours.ino() == there.ino(),
        _ => false,
    }
}

/// A VM whose lock is ours: nobody else starts, changes or removes it. Dropping it gives the lock back.
#[derive(Debug)]
pub struct HeldVm {
    folder: VmFolder,
    lock: FileLock,
}

impl HeldVm {
    /// Makes the folder of a new VM and takes its lock. Called under the home's lock.
    pub(super) fn create(folder: VmFolder) -> Result<Self, HomeError> {
        let path = folder.path();
        files::private_folder(&path)?;
        let lock_path = folder.lock_path();
        let lock = FileLock::try_exclusive(&lock_path).context(WriteSnafu { path: &lock_path })?;
        let lock = lock.context(BusySnafu { name: folder.id.as_str() })?;
        Ok(Self { folder, lock })
    }

    /// Takes over a lock that its holder handed to us as an open file.
    pub fn from_lock_file(folder: VmFolder, file: File) -> Result<Self, HomeError> {
        let path = folder.lock_path();
        let same = is_at(&file, &path);
        // The same open file description may lock again; any other finds it locked.
        let lock = FileLock::try_exclusive_file(file).context(ReadSnafu { path: &path })?;
        let lock = lock.filter(|_| same).context(BusySnafu { name: folder.id.as_str() })?;
        Ok(Self { folder, lock })
    }

    /// The VM's folder.
    pub fn folder(&self) -> &VmFolder {
        &self.folder
    }

    /// The locked file, to send it to the monitor.
    pub fn lock_file(&self) -> &File {
        self.lock.file()
    }

    /// Leaves the lock to the monitor that it was sent to: from here on the VM is held while that one lives.
    pub fn hand_over(self) {
        self.lock.hand_over();
    }

    /// Writes `spec.json`, and sees a VM that is to stay on the disk with all that makes it found again: a power cut may
    /// come as soon as its user is told that it is there.
    pub fn write_spec(&self, spec: &VmSpec) -> Result<(), HomeError> {
        let folder = self.folder.path();
        let (path, partial) = (folder.join("spec.json"), folder.join("spec.partial"));
        if spec.ephemeral() {
            return files::write_json(&path, spec);
        }
        // Complete on the disk before it has its name there: the old one stays whole until then.
        files::write_partial(&partial, spec)?;
        let owned = folder.join(OWNED);
        let owned = owned.exists().then_some(owned.as_path());
        files::sync(&owned.into_iter().chain([partial.as_path(), &folder]).collect::<Vec<_>>())?;
        fs::rename(&partial, &path).context(WriteSnafu { path: &path })?;
        let home = &self.folder.home;
        files::sync(&[&folder, &home.vms(), &home.names()])
    }

    /// Writes `state.json`.
    pub fn write_state(&self, record: &StateRecord) -> Result<(), HomeError> {
        files::write_json(&self.folder.path().join("state.json"), record)
    }

    /// Records a folder beneath the home that goes when the last VM goes that owns it: a layer of its disk. To be called
    /// before the folder is there, so that no death between the two leaves it behind.
    pub fn will_own(&self, path: &Path) -> Result<(), HomeError> {
        let mut owned = self.folder.owned()?;
        if !owned.iter().any(|owned| owned == path) {
            owned.push(path.to_owned());
        }
        self.write_record(OWNED, &owned)
    }

    /// Sees on the disk what a VM owns that is being made: what it owns beyond the home is found by nobody else.
    pub fn see_owned_on_disk(&self) -> Result<(), HomeError> {
        let folder = self.folder.path();
        files::sync(&[&folder.join(OWNED), &folder, &self.folder.home.vms()])
    }

    /// Owns of what another VM owns all that is `shared`. The caller sees to it, or sees afterwards, that it was that VM's
    /// until then.
    pub fn share(&self, other: &VmFolder, shared: impl Fn(&Path) -> bool) -> Result<(), HomeError> {
        let _owners = self.folder.home.lock_owners()?;
        let owned = other.owned()?;
        owned.iter().filter(|path| shared(path)).try_for_each(|path| self.will_own(path))
    }

    /// Writes a record of what it owns. That of a VM that is there survives a power cut; one that is being made is synced
    /// with its description.
    fn write_record(&self, name: &str, layers: &[PathBuf]) -> Result<(), HomeError> {
        let folder = self.folder.path();
        let path = folder.join(name);
        if !folder.join("spec.json").exists() {
            return files::write_json(&path, &layers);
        }
        let partial = path.with_extension("partial");
        files::write_partial(&partial, &layers)?;
        files::sync(&[&partial])?;
        fs::rename(&partial, &path).context(WriteSnafu { path: &path })?;
        files::sync(&[&folder])
    }

    /// Gives up what it owns and does not need any more. What no other VM owns is removed.
    pub fn disown(&self, needed: impl Fn(&Path) -> bool) -> Result<(), HomeError> {
        let dropped = self.folder.path().join(DROPPED);
        let (kept, mut gone): (Vec<_>, Vec<_>) =
            self.folder.owned()?.into_iter().partition(|path| needed(path));
        // What was given up before a death is still to be removed.
        gone.extend(files::read_json::<Vec<PathBuf>>(&dropped)?.unwrap_or_default());
        if gone.is_empty() {
            return Ok(());
        }
        self.write_record(DROPPED, &gone)?;
        self.write_record(OWNED, &kept)?;
        remove_owned(&self.folder.home, &gone, true)?;
        fs::remove_file(&dropped).context(WriteSnafu { path: &dropped })
    }

    /// Gives up the layers that neither its disks nor a snapshot needs.
    pub fn disown_unneeded(&self, spec: &VmSpec) -> Result<(), HomeError> {
        let snapshots = spec.snapshots.iter().flat_map(|snapshot| &snapshot.layers);
        let layers = spec.machine.disks.iter().flat_map(|disk| &disk.layers).chain(snapshots);
        let needed: BTreeSet<_> =
            layers.filter_map(|layer| layer.path.parent()?.file_name().map(ToOwned::to_owned)).collect();
        self.disown(|owned| owned.file_name().is_some_and(|name| needed.contains(name)))
    }

    /// Makes the folder of its sockets, empty: what an earlier run left there is dead, for we hold the lock.
    pub fn make_sockets_folder(&self) -> Result<PathBuf, HomeError> {
        self.remove_sockets_folder()?;
        let sockets = self.folder.sockets();
        // Another VM of this home that ends now may remove the folder above as empty.
        for _ in 0..100 {
            files::private_folder_among_others(self.folder.home.runtime())?;
            match files::private_folder_among_others(&sockets) {
                Err(HomeError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => return result.map(|()| sockets),
            }
        }
        Err(HomeError::Folder { path: sockets, source: io::ErrorKind::NotFound.into() })
    }

    /// Removes its sockets and their folder.
    pub fn remove_sockets_folder(&self) -> Result<(), HomeError> {
        let recorded = self.folder.state().ok().flatten().map(|record| record.sockets);
        // A record is a file like another: only what can be the sockets' folder is removed.
        let recorded = recorded.filter(|path| path.file_name() == self.folder.sockets().file_name());
        for sockets in recorded.into_iter().chain([self.folder.sockets()]) {
            remove_all(&sockets).context(FolderSnafu { path: &sockets })?;
            // Fails while another VM has sockets beside: then it stays.
            let _ = sockets.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    /// Removes everything of the VM: its sockets, its name, what it owns, its folder, at last the lock.
    pub fn remove(self) -> Result<(), HomeError> {
        self.remove_sockets_folder()?;
        let stays = self.folder.spec().is_ok_and(|spec| spec.is_some_and(|spec| !spec.ephemeral()));
        self.folder.home.release_names_of(&self.folder.id, None)?;
        let path = self.folder.path();
        // Set aside before anything of it goes: a VM that has lost its disk is never taken for one, and whoever clears
        // away after our death goes on from here.
        let removed = self.folder.home.vms().join(format!("{REMOVED}{}", self.folder.id));
        match fs::rename(&path, &removed) {
            Ok(()) => {
                // Not even a power cut brings it back without its disk.
                if stays {
                    files::sync(&[&self.folder.home.vms()])?;
                }
                finish_removal(&self.folder.home, &removed, stays)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(HomeError::Folder { path, source }),
        }
    }
}

/// Removes what is left of a VM whose folder was set aside: the layers that it owns, then the folder. `durable` is of the
/// layers, as of [`remove_owned`].
pub(super) fn finish_removal(home: &Home, removed: &Path, durable: bool) -> Result<(), HomeError> {
    let mut layers = Vec::new();
    for record in [OWNED, DROPPED] {
        let owned: Option<Vec<PathBuf>> = files::read_json(&removed.join(record)).unwrap_or_else(|error| {
            // What it owned is lost track of; that must not keep the rest.
            tracing::warn!(%error, "a VM is removed without what it owned");
            None
        });
        layers.extend(owned.unwrap_or_default());
    }
    remove_owned(home, &layers, durable)?;
    remove_all(removed).context(FolderSnafu { path: removed })
}

/// Removes those of the layers that no VM owns and no image stands on. `durable`: they are gone for good before whoever
/// knows of them forgets them, for a layer that a power cut brings back by half would be nobody's.
///
/// Of two VMs that give up the same layer at once, each has recorded that before it looks at the other, so the later one
/// finds it nobody's. That none comes to own it meanwhile is what the lock of the owners is for.
fn remove_owned(home: &Home, layers: &[PathBuf], durable: bool) -> Result<(), HomeError> {
    if layers.is_empty() {
        return Ok(());
    }
    let _owners = home.lock_owners()?;
    let mut shared = BTreeSet::new();
    for id in home.ids()? {
        match files::read_json::<Vec<PathBuf>>(&home.folder(&id).path().join(OWNED)) {
            Ok(others) => shared.extend(others.into_iter().flatten().filter_map(layer_name)),
            Err(error) => {
                // It may own any of them.
                tracing::warn!(%id, %error, "layers are kept that may be another VM's");
                return Ok(());
            }
        }
    }
    for name in layers.iter().filter_map(layer_name).filter(|name| !shared.contains(name)) {
        let path = home.root().join(LAYERS).join(&name);
        if path.join(KEPT).exists() {
            continue;
        }
        // An overlay at a place of its user's choice goes with the VM, too. Of a layer that VMs own, nothing else is a link.
        if let Ok(overlay) = fs::read_link(path.join("disk.qcow2")) {
            remove_file(&vmm_disk::partial_beside(&overlay))?;
            remove_file(&overlay)?;
            if let (true, Some(folder)) = (durable, overlay.parent().filter(|folder| folder.exists())) {
                files::sync(&[folder])?;
            }
        }
        // One whose maker was killed has not come to its name.
        let mut partial = name;
        partial.push(".partial");
        for path in [home.root().join(LAYERS).join(partial), path] {
            remove_all(&path).context(FolderSnafu { path: &path })?;
        }
    }
    let folder = home.root().join(LAYERS);
    if durable && folder.exists() { files::sync(&[&folder]) } else { Ok(()) }
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<(), HomeError> {
    if_there(fs::remove_file(path)).context(WriteSnafu { path })
}

/// The name of a layer that a VM owns. By that it is found: the home may have been moved since, or have more than one
/// path.
fn layer_name(path: impl AsRef<Path>) -> Option<OsString> {
    let path = path.as_ref();
    let within = path.parent().and_then(Path::file_name).is_some_and(|folder| folder == LAYERS);
    path.file_name().filter(|_| within).map(ToOwned::to_owned)
}

/// Removes a folder with everything in it, if it is there.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    if_there(fs::remove_dir_all(path))
}
