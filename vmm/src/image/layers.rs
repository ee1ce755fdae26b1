//! The folder of layers: all disk data there is, each layer in a folder of its own.
//!
//! ```text
//! layers/.lock
//! layers/<id>/layer.json    its format, the layer below it, and, where it is never written, its digest
//! layers/<id>/disk.qcow2    its data (or disk.raw)
//! layers/<id>/kept          an image stands on it: it does not go with the machine that wrote it
//! ```
//!
//! A base layer is named by the digest of its contents, so that images share what is the same; it is read-only. A
//! top layer has a random name and belongs to one machine. What the data files hold is `vmm-disk`'s concern.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snafu::{ResultExt, Snafu, ensure};
use vmm_disk::{Format, LayerSpec};
use vmm_sys::FileLock;

use super::digest::Digest;
use super::error::{
    DamagedLayerSnafu, MakeLayerSnafu, NewerSnafu, NoLayerSnafu, Result, StorageSnafu, TakenSnafu,
};
use super::files;
use super::record::{self, FileRecord, Refusal};
use crate::home::KEPT;

/// The longest chain of layers that is followed.
const LONGEST_CHAIN: usize = 1024;

const RECORD: &str = "layer.json";

/// The name of a layer: 32 or 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

/// Why a text is no name of a layer.
#[derive(Debug, Snafu, PartialEq, Eq)]
#[snafu(display("a layer's id has 32 or 64 lower-case hexadecimal digits"))]
pub struct LayerIdError;

/// A layer of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub id: LayerId,
    /// Its data file.
    pub path: PathBuf,
    /// The format of that.
    pub format: Format,
    /// The layer that shows through where this one has nothing.
    pub below: Option<LayerId>,
    /// What its data file must be; only for base layers, which are never written.
    pub(super) content: Option<FileRecord>,
    /// What it was made of and by, where that can be made again.
    pub(super) made_by: Option<Digest>,
}

impl Layer {
    /// Whether it is recorded what its data file must be: then nobody writes it any more.
    pub fn is_sealed(&self) -> bool {
        self.content.is_some()
    }
}

/// What `layer.json` says.
#[derive(Serialize, Deserialize)]
struct LayerRecord {
    id: LayerId,
    disk_format: Format,
    below: Option<LayerId>,
    content: Option<FileRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_by: Option<Digest>,
}

/// A layer that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLayer {
    /// The format of its data file.
    pub format: Format,
    /// The layer that shows through where it has nothing.
    pub below: Option<LayerId>,
    /// Whether it must survive a power cut from the moment it is made. A machine that leaves nothing behind needs no
    /// such promise, and starts sooner without.
    pub durable: bool,
}

/// The folder of layers.
#[derive(Clone, Debug)]
pub struct LayerStore {
    folder: PathBuf,
}

impl LayerStore {
    pub(super) fn open(folder: PathBuf) -> Result<Self> {
        files::make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// Makes a layer: `make` creates its data file at the path that it is given. When anything fails, nothing is
    /// left. `make` must not use the store itself: the store is locked meanwhile.
    pub fn create<E>(&self, new: NewLayer, make: impl FnOnce(&Path) -> Result<(), E>) -> Result<Layer>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.create_as(self.draw_id()?, new, make)
    }

    /// Draws a name for a layer that is to be made with [`LayerStore::create_as`].
    pub fn draw_id(&self) -> Result<LayerId> {
        LayerId::random().context(StorageSnafu { action: "name a layer in", path: &self.folder })
    }

    /// Where a layer is, or will be. A machine records it as its own before it makes it, so that no death between the
    /// two leaves a layer that is nobody's.
    pub fn folder_of(&self, id: &LayerId) -> PathBuf {
        self.folder.join(&id.0)
    }

    /// Makes a layer of this name, as [`LayerStore::create`] does.
    pub fn create_as<E>(
        &self,
        id: LayerId,
        new: NewLayer,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Layer>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let _lock = self.lock()?;
        self.remove_partials()?;
        if let Some(below) = &new.below {
            self.layer(below)?;
        }
        let record =
            LayerRecord { id, disk_format: new.format, below: new.below, content: None, made_by: None };
        self.assemble(record, new.durable, |path| {
            make(path).map_err(Into::into).context(MakeLayerSnafu { path })?;
            // Whatever created it, it is nobody else's to read.
            fs::set_permissions(path, Permissions::from_mode(0o600))
                .context(StorageSnafu { action: "make private", path })
        })
    }

    /// Sees a layer on the disk that was made without that promise. Its data is whoever's has it open.
    pub fn see_on_disk(&self, id: &LayerId) -> Result<()> {
        let folder = self.folder.join(&id.0);
        let record = folder.join(RECORD);
        let file = fs::File::open(&record).context(StorageSnafu { action: "open", path: &record })?;
        files::sync(&file, &record)?;
        files::sync_folder(&folder)?;
        files::sync_folder(&self.folder)
    }

    /// The base layer with these contents, if there is one. Whether they are still good is not looked at.
    pub(super) fn base(&self, sha256: Digest) -> Option<Layer> {
        self.layer(&LayerId(sha256.to_string())).ok()
    }

    /// Keeps a layer that a machine owns from going with that. Called while no owner can give it up.
    pub fn keep(&self, id: &LayerId) -> Result<()> {
        let layer = self.layer(id)?;
        let path = self.folder.join(&layer.id.0).join(KEPT);
        if path.exists() {
            return Ok(());
        }
        files::write_new(&path, b"")?;
        files::sync_folder(&self.folder.join(&id.0))
    }

    /// No image stands on a layer any more: it goes with the last machine that owns it.
    pub(super) fn release(&self, id: &LayerId) -> Result<()> {
        files::remove_file(&self.folder.join(&id.0).join(KEPT))
    }

    /// Records what a layer holds that is never written again. `tell` hears how much of it was read.
    pub(super) fn seal(&self, layer: Layer, tell: impl FnMut(u64)) -> Result<Layer> {
        let Layer { id, path, format, below, made_by, .. } = layer;
        fs::set_permissions(&path, Permissions::from_mode(0o400))
            .context(StorageSnafu { action: "make read-only", path: &path })?;
        let storage = StorageSnafu { action: "read", path: &path };
        let file = fs::File::open(&path).context(storage)?;
        files::sync(&file, &path)?;
        let (sha256, size) = Digest::of_reader(&file, tell).context(storage)?;
        let content = FileRecord { name: data_file(format).to_owned(), size, sha256 };
        let record = LayerRecord { id, disk_format: format, below, content: Some(content), made_by };
        self.rewrite(&record)?;
        Ok(self.described(record))
    }

    /// Takes a file of the same file system in as a base layer; whoever made it has found its contents to be these. One
    /// that is there already is replaced.
    pub(super) fn adopt(&self, file: &Path, format: Format, content: (Digest, u64)) -> Result<Layer> {
        self.adopt_as(LayerId(content.0.to_string()), file, format, content, None)
    }

    /// Takes a file in as a layer over another one, never to be written again, and remembers what it was made by. The same
    /// could be made once more, but not with the same bytes: its name tells these, and what it stands on.
    pub(super) fn adopt_upon(
        &self,
        file: &Path,
        format: Format,
        content: (Digest, u64),
        (below, made_by): (LayerId, Digest),
    ) -> Result<Layer> {
        let id = LayerId(Digest::of(format!("{below}\n{}", content.0).as_bytes()).to_string());
        self.adopt_as(id, file, format, content, Some((below, made_by)))
    }

    /// The name of the layer that leads to a file of the user's.
    pub(super) fn id_of_file(&self, format: Format, sha256: Digest) -> LayerId {
        LayerId(Digest::of(format!("file {format:?} {sha256}").as_bytes()).to_string())
    }

    /// Makes a base layer that leads to a file of the user's, with these contents. One that leads elsewhere is replaced:
    /// what is there has changed, or is gone.
    pub(super) fn refer(&self, file: &Path, format: Format, content: (Digest, u64)) -> Result<Layer> {
        let id = self.id_of_file(format, content.0);
        let link = |path: &Path| {
            std::os::unix::fs::symlink(file, path).context(StorageSnafu { action: "make the link", path })
        };
        self.adopt_with(id, format, content, None, link)
    }

    /// The layer whose data is this file of the user's, whether that is there or not.
    pub fn leading_to(&self, file: &Path) -> Result<Option<LayerId>> {
        let leads = |layer: &Layer| fs::read_link(&layer.path).is_ok_and(|target| target == file);
        Ok(self.list()?.into_iter().find(leads).map(|layer| layer.id))
    }

    /// Makes a layer whose data lies in a file of the user's that is not there yet: a machine's own, which goes with it.
    /// `make` need not see it on the disk.
    ///
    /// The layer is there before the file. Whoever dies in between leaves a layer that is a machine's, recorded before it
    /// was there, and that takes the file with it, however much of that was made.
    pub fn create_at<E>(
        &self,
        id: LayerId,
        new: NewLayer,
        file: &Path,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Layer>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let _lock = self.lock()?;
        self.remove_partials()?;
        if let Some(other) = self.leading_to(file)? {
            return TakenSnafu { path: file, id: other.as_str() }.fail();
        }
        let record =
            LayerRecord { id, disk_format: new.format, below: new.below, content: None, made_by: None };
        let layer = self.assemble(record, new.durable, |path| {
            std::os::unix::fs::symlink(file, path).context(StorageSnafu { action: "make the link", path })
        })?;
        let partial = vmm_disk::partial_beside(file);
        let mut has_name = false;
        let made = || {
            files::remove_file(&partial)?;
            make(&partial).map_err(Into::into).context(MakeLayerSnafu { path: file })?;
            if new.durable {
                let made =
                    fs::File::open(&partial).context(StorageSnafu { action: "open", path: &partial })?;
                files::sync(&made, &partial)?;
            }
            files::rename_new(&partial, file)?;
            has_name = true;
            if new.durable { file.parent().map_or(Ok(()), files::sync_folder) } else { Ok(()) }
        };
        if let Err(error) = made() {
            // The first error is the one to tell. The layer goes first: with it would go whatever has the name by now.
            let _ = files::remove_folder(&self.folder.join(&layer.id.0));
            let _ = files::remove_file(if has_name { file } else { &partial });
            return Err(error);
        }
        Ok(layer)
    }

    /// A layer has in it all that it showed, and lies upon no other one any more.
    pub fn stand_alone(&self, id: &LayerId) -> Result<()> {
        let Layer { id, format, made_by, .. } = self.layer(id)?;
        // What was known of its contents was known of another file.
        self.rewrite(&LayerRecord { id, disk_format: format, below: None, content: None, made_by })
    }

    fn rewrite(&self, record: &LayerRecord) -> Result<()> {
        let at = self.folder.join(&record.id.0).join(RECORD);
        let bytes = record::to_bytes(record)
            .map_err(std::io::Error::from)
            .context(StorageSnafu { action: "record", path: &at })?;
        let _lock = self.lock()?;
        let partial = files::partial_of(&at);
        files::remove_file(&partial)?;
        files::write_new(&partial, &bytes)?;
        files::rename(&partial, &at)
    }

    /// The layers that were made by this. Whether their contents are still good is not looked at.
    pub(super) fn made_by(&self, key: Digest) -> Result<Vec<Layer>> {
        let mut layers = self.list()?;
        layers.retain(|layer| layer.made_by == Some(key));
        Ok(layers)
    }

    fn adopt_as(
        &self,
        id: LayerId,
        file: &Path,
        format: Format,
        content: (Digest, u64),
        upon: Option<(LayerId, Digest)>,
    ) -> Result<Layer> {
        self.adopt_with(id, format, content, upon, |path| {
            files::rename(file, path)?;
            fs::set_permissions(path, Permissions::from_mode(0o400))
                .context(StorageSnafu { action: "make read-only", path })
        })
    }

    fn adopt_with(
        &self,
        id: LayerId,
        format: Format,
        (sha256, size): (Digest, u64),
        upon: Option<(LayerId, Digest)>,
        put: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Layer> {
        let _lock = self.lock()?;
        self.remove_partials()?;
        let content = Some(FileRecord { name: data_file(format).to_owned(), size, sha256 });
        let (below, made_by) = upon.unzip();
        let record = LayerRecord { id, disk_format: format, below, content, made_by };
        self.assemble(record, true, put)
    }

    /// Builds a layer's folder beside its place, then gives it its name.
    fn assemble(
        &self,
        record: LayerRecord,
        durable: bool,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Layer> {
        let folder = self.folder.join(&record.id.0);
        let partial = files::partial_of(&folder);
        files::make_folder(&partial)?;
        let attempt = || {
            let data = partial.join(data_file(record.disk_format));
            make(&data)?;
            let bytes = record::to_bytes(&record)
                .map_err(std::io::Error::from)
                .context(StorageSnafu { action: "record", path: &folder })?;
            let record_path = partial.join(RECORD);
            if durable {
                // What a link leads to may be yet to be made.
                if data.exists() {
                    let file = fs::File::open(&data).context(StorageSnafu { action: "open", path: &data })?;
                    files::sync(&file, &data)?;
                }
                files::write_new(&record_path, &bytes)?;
                files::sync_folder(&partial)?;
            } else {
                files::write_unsynced(&record_path, &bytes)?;
            }
            if folder.exists() {
                files::exchange(&partial, &folder)?;
                files::remove_folder(&partial)
            } else if durable {
                files::rename(&partial, &folder)
            } else {
                files::rename_unsynced(&partial, &folder)
            }
        };
        if let Err(error) = attempt() {
            // The first error is the one to tell; what stays is removed by the next who makes a layer.
            let _ = files::remove_folder(&partial);
            return Err(error);
        }
        Ok(self.described(record))
    }

    /// One layer.
    pub fn layer(&self, id: &LayerId) -> Result<Layer> {
        let path = self.folder.join(&id.0).join(RECORD);
        let Some(bytes) = files::read(&path, record::LARGEST)? else {
            return NoLayerSnafu { id: &id.0, folder: &self.folder }.fail();
        };
        let damaged = |what: &str| DamagedLayerSnafu { path: path.clone(), what }.fail();
        let record: LayerRecord = match record::from_bytes(&bytes) {
            Ok(record) => record,
            Err(Refusal::Newer) => return NewerSnafu { path }.fail(),
            Err(Refusal::Damaged(what)) => return damaged(what),
        };
        if record.id != *id {
            return damaged("it describes another layer");
        }
        Ok(self.described(record))
    }

    /// A layer and those below it, from the base up.
    pub fn chain(&self, top: &LayerId) -> Result<Vec<Layer>> {
        let mut chain = Vec::new();
        let mut next = Some(top.clone());
        while let Some(id) = next {
            let layer = self.layer(&id)?;
            ensure!(
                chain.len() < LONGEST_CHAIN,
                DamagedLayerSnafu { path: &layer.path, what: "its chain of layers has no end" }
            );
            next = layer.below.clone();
            chain.push(layer);
        }
        chain.reverse();
        Ok(chain)
    }

    /// All layers, in the order of their names. Those that cannot be read are left out, with a warning in the log.
    pub fn list(&self) -> Result<Vec<Layer>> {
        let ids = files::names_in(&self.folder)?.into_iter().filter_map(|name| name.parse::<LayerId>().ok());
        Ok(ids
            .filter_map(|id| match self.layer(&id) {
                Ok(layer) => Some(layer),
                Err(error) => {
                    tracing::warn!(%id, %error, "a layer cannot be read");
                    None
                }
            })
            .collect())
    }

    /// The layers without a record: a power cut has undone half of a removal. One that is made has its record before it has
    /// its name.
    pub fn half_removed(&self) -> Result<Vec<LayerId>> {
        let ids = files::names_in(&self.folder)?.into_iter().filter_map(|name| name.parse::<LayerId>().ok());
        Ok(ids.filter(|id| !self.folder.join(&id.0).join(RECORD).exists()).collect())
    }

    /// Removes a layer with its data. That nobody refers to it is the caller's knowledge. A process that has it open
    /// keeps what it has.
    pub fn remove(&self, id: &LayerId) -> Result<()> {
        let _lock = self.lock()?;
        let folder = self.folder.join(&id.0);
        if !folder.exists() {
            return Ok(());
        }
        // By its name it is gone at once, however long its data takes to be freed.
        let partial = files::partial_of(&folder);
        files::remove_folder(&partial)?;
        files::rename_unsynced(&folder, &partial)?;
        files::remove_folder(&partial)
    }

    /// The layers that neither one of the references nor a layer above them needs.
    ///
    /// The references are those of every image ([`super::Image::layer`]) and of every machine. Whoever removes what
    /// this gives must know that no machine is being made meanwhile.
    pub fn unreferenced(&self, references: &BTreeSet<LayerId>) -> Result<Vec<LayerId>> {
        let whole = self.list()?.into_iter().map(|layer| (layer.id, layer.below));
        let half = self.half_removed()?.into_iter().map(|id| (id, None));
        let layers: BTreeMap<LayerId, Option<LayerId>> = whole.chain(half).collect();
        let mut needed = BTreeSet::new();
        for reference in references {
            let mut next = Some(reference);
            while let Some(id) = next.filter(|id| needed.insert((*id).clone())) {
                next = layers.get(id).and_then(Option::as_ref);
            }
        }
        Ok(layers.into_keys().filter(|id| !needed.contains(id)).collect())
    }

    /// Removes what others had begun when they died, or only tells of it. Gives each folder with what it takes.
    pub(super) fn prune_partials(&self, dry_run: bool) -> Result<Vec<(PathBuf, u64)>> {
        let _lock = self.lock()?;
        let names = files::names_in(&self.folder)?.into_iter().filter(|name| name.ends_with(files::PARTIAL));
        let paths = names.map(|name| self.folder.join(name));
        let found: Vec<_> = paths.map(|path| (path.clone(), files::allocated(&path))).collect();
        if !dry_run {
            self.remove_partials()?;
        }
        Ok(found)
    }

    fn described(&self, record: LayerRecord) -> Layer {
        let LayerRecord { id, disk_format: format, below, content, made_by } = record;
        let path = self.folder.join(&id.0).join(data_file(format));
        Layer { id, path, format, below, content, made_by }
    }

    fn lock(&self) -> Result<FileLock> {
        let path = self.folder.join(".lock");
        FileLock::exclusive(&path).context(StorageSnafu { action: "lock", path })
    }

    /// Removes what others had begun when they died. Called under the lock, so whatever is there is of the dead.
    fn remove_partials(&self) -> Result<()> {
        for name in files::names_in(&self.folder)? {
            if name.ends_with(files::PARTIAL) {
                files::remove_folder(&self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

impl Layer {
    /// How a machine's description names it.
    pub fn spec(&self) -> LayerSpec {
        LayerSpec { path: self.path.clone(), format: self.format }
    }
}

impl LayerId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn random() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LayerId {
    type Err = LayerIdError;

    fn from_str(text: &str) -> Result<Self, LayerIdError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        ensure!(digits && [32, 64].contains(&text.len()), LayerIdSnafu);
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for LayerId {
    type Error = LayerIdError;

    fn try_from(text: String) -> Result<Self, LayerIdError> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

fn data_file(format: Format) -> &'static str {
    match format {
        Format::Raw => "disk.raw",
        Format::Qcow2 => "disk.qcow2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, LayerStore) {
        let home = tempfile::tempdir().unwrap();
        let store = LayerStore::open(home.path().join("layers")).unwrap();
        (home, store)
    }

    fn write(contents: &[u8]) -> impl FnOnce(&Path) -> std::io::Result<()> + '_ {
        move |path| fs::write(path, contents)
    }

    fn raw(below: Option<&Layer>) -> NewLayer {
        NewLayer { format: Format::Raw, below: below.map(|layer| layer.id.clone()), durable: true }
    }

    #[test]
    fn a_layer_lives_in_a_private_folder_until_it_is_removed() {
        let (_home, store) = store();
        let layer = store.create(NewLayer { durable: false, ..raw(None) }, write(b"data")).unwrap();
        assert_eq!(fs::read(&layer.path).unwrap(), b"data");
        assert_eq!(fs::metadata(&layer.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&layer));
        store.remove(&layer.id).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(!layer.path.exists());
        store.remove(&layer.id).unwrap();
    }

    #[test]
    fn a_chain_is_followed_from_the_top_to_the_base() {
        let (_home, store) = store();
        let base = store.create(raw(None), write(b"base")).unwrap();
        let middle = store.create(raw(Some(&base)), write(b"middle")).unwrap();
        let top = store.create(raw(Some(&middle)), write(b"top")).unwrap();
        assert_eq!(store.chain(&top.id).unwrap(), [base, middle, top]);
    }

    #[test]
    fn only_layers_that_nothing_leads_to_are_unreferenced() {
        let (_home, store) = store();
        let base = store.create(raw(None), write(b"")).unwrap();
        let top = store.create(raw(Some(&base)), write(b"")).unwrap();
        let other = store.create(raw(Some(&base)), write(b"")).unwrap();
        let lone = store.create(raw(None), write(b"")).unwrap();
        let references = BTreeSet::from([top.id.clone()]);
        let mut expected = [other.id, lone.id];
        expected.sort();
        assert_eq!(store.unreferenced(&references).unwrap(), expected);
    }

    #[test]
    fn half_a_layer_is_unreferenced_unless_something_leads_to_it() {
        let (_home, store) = store();
        let base = store.create(raw(None), write(b"")).unwrap();
        let top = store.create(raw(Some(&base)), write(b"")).unwrap();
        let lone = store.create(raw(None), write(b"")).unwrap();
        for layer in [&base, &lone] {
            fs::remove_file(layer.path.with_file_name(RECORD)).unwrap();
        }
        assert_eq!(store.half_removed().unwrap().len(), 2);
        let references = BTreeSet::from([top.id]);
        assert_eq!(store.unreferenced(&references).unwrap(), std::slice::from_ref(&lone.id));
        store.remove(&lone.id).unwrap();
        assert!(!lone.path.exists());
    }

    #[test]
    fn a_layer_above_nothing_is_refused() {
        let (_home, store) = store();
        let gone = store.create(raw(None), write(b"")).unwrap();
        store.remove(&gone.id).unwrap();
        assert!(store.create(raw(Some(&gone)), write(b"")).is_err());
    }

    #[test]
    fn a_layer_that_cannot_be_made_leaves_nothing() {
        let (_home, store) = store();
        let error = store.create(raw(None), |_| Err(std::io::Error::other("no"))).unwrap_err();
        assert!(error.to_string().starts_with("cannot make the layer"), "{error}");
        assert_eq!(files::names_in(&store.folder).unwrap(), [".lock"]);
    }

    #[test]
    fn a_death_at_any_step_leaves_a_layer_whole_or_none() {
        let (_home, store) = store();
        for steps in 0.. {
            let before = store.list().unwrap().len();
            let ended = files::death::after(steps, || store.create(raw(None), write(b"data"))).is_some();
            let layers = store.list().unwrap();
            assert!(layers.len() == before || layers.len() == before + 1);
            assert!(layers.iter().all(|layer| fs::read(&layer.path).unwrap() == b"data"));
            if ended {
                break;
            }
        }
        store.create(raw(None), write(b"data")).unwrap();
        assert!(!files::names_in(&store.folder).unwrap().iter().any(|name| name.ends_with(files::PARTIAL)));
    }

    #[test]
    fn a_base_layer_is_named_by_its_contents_and_replaced_as_a_whole() {
        let (home, store) = store();
        let content = (Digest::of(b"abc"), 3);
        let take = || {
            let file = home.path().join("fetched");
            fs::write(&file, b"abc").unwrap();
            store.adopt(&file, Format::Raw, content).unwrap()
        };
        let base = take();
        assert_eq!(store.base(content.0), Some(base.clone()));
        assert_eq!(fs::metadata(&base.path).unwrap().permissions().mode() & 0o777, 0o400);
        fs::remove_file(&base.path).unwrap();
        fs::write(&base.path, b"abd").unwrap();
        assert_eq!(take(), base);
        assert_eq!(fs::read(&base.path).unwrap(), b"abc");
        assert_eq!(files::names_in(&store.folder).unwrap().len(), 2);
    }

    #[test]
    fn a_record_that_is_not_what_was_written_is_refused() {
        let (_home, store) = store();
        let layer = store.create(raw(None), write(b"")).unwrap();
        let path = layer.path.with_file_name(RECORD);
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = store.layer(&layer.id).unwrap_err().to_string();
        assert!(error.contains("layer.json is damaged"), "{error}");
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_layer_upon_another_is_named_by_its_contents_and_by_what_it_stands_on() {
        let (home, store) = store();
        let content = (Digest::of(b"abc"), 3);
        let adopt = |below: &Layer, key: &[u8]| {
            let file = home.path().join("made");
            fs::write(&file, b"abc").unwrap();
            store.adopt_upon(&file, Format::Raw, content, (below.id.clone(), Digest::of(key))).unwrap()
        };
        let (one, other) =
            (store.create(raw(None), write(b"1")).unwrap(), store.create(raw(None), write(b"2")).unwrap());
        let layer = adopt(&one, b"key");
        assert_eq!(adopt(&one, b"key"), layer);
        assert_ne!(adopt(&other, b"other").id, layer.id);
        assert_eq!(store.made_by(Digest::of(b"key")).unwrap(), std::slice::from_ref(&layer));
        assert_eq!(store.chain(&layer.id).unwrap().len(), 2);
        assert_eq!(fs::metadata(&layer.path).unwrap().permissions().mode() & 0o777, 0o400);
    }

    #[test]
    fn a_layer_at_a_place_of_its_users_choice_is_a_link_to_it() {
        let (home, store) = store();
        let file = home.path().join("overlay.raw");
        let layer = store.create_at(store.draw_id().unwrap(), raw(None), &file, write(b"data")).unwrap();
        assert_eq!(fs::read(&layer.path).unwrap(), b"data");
        assert_eq!(fs::read_link(&layer.path).unwrap(), file);
        assert_eq!(store.layer(&layer.id).unwrap(), layer);
        // One that cannot be made leaves nothing.
        let other = home.path().join("other.raw");
        let failed = |_: &Path| Err(std::io::Error::other("no"));
        assert!(store.create_at(store.draw_id().unwrap(), raw(None), &other, failed).is_err());
        assert!(!other.exists());
        // What is there meanwhile is somebody else's.
        let late = |path: &Path| fs::write(&other, b"theirs").and_then(|()| fs::write(path, b"data"));
        let error = store.create_at(store.draw_id().unwrap(), raw(None), &other, late).unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        assert_eq!(fs::read(&other).unwrap(), b"theirs");
        assert_eq!(store.list().unwrap().len(), 1);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3);
    }
}
