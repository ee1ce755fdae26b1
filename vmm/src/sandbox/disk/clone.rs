//! A VM from another one: both go on from the same disk, each with a layer of its own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use snafu::ResultExt;
use vmm_disk::LayerSpec;

use super::live::LiveVm;
use super::{has_untouched_top, layer_upon, root, spec_of, virtual_size};
use crate::home::{HeldVm, Timestamp, VmFolder, VmName, VmSpec};
use crate::image::ImageStore;
use crate::sandbox::error::{Error, SystemSnafu};
use crate::sandbox::{Sandbox, hold};

/// A VM that was made from another one.
#[derive(Debug)]
pub struct Cloned {
    /// It. It does not run.
    pub sandbox: Sandbox,
    /// How long the guest of the other one stood still, where that runs.
    pub frozen: Option<Duration>,
}

impl Sandbox {
    /// Makes a VM that starts from what is on the disk of this one. It takes no time however large the disk is; both share
    /// what is on it now, and what either writes is its own.
    ///
    /// If this one runs, its guest writes back what it has and stands still for a moment: the clone finds file systems as
    /// they are when they were unmounted. What its programs have not written, the clone does not have.
    pub fn clone_to(&self, name: &str) -> Result<Cloned, Error> {
        let name: VmName = name.parse().map_err(crate::home::HomeError::from)?;
        match hold(self.link.folder(), self.name()) {
            Ok(source) => self.clone_stopped(&source, name),
            Err(Error::AlreadyRunning { .. }) => self.clone_running(name),
            Err(error) => Err(error),
        }
    }

    fn clone_stopped(&self, source: &HeldVm, name: VmName) -> Result<Cloned, Error> {
        let clone = self.link.folder().home().create(Some(&name))?;
        let folder = clone.folder().clone();
        let before = spec_of(source)?;
        match divide(source, &clone, name) {
            Ok(()) => Ok(Cloned { sandbox: Self::of(folder, None), frozen: None }),
            Err(error) => {
                // The first error is the one to tell. Whatever was not written down is needed by nobody.
                let _ = clone.remove();
                let _ = source.disown_unneeded(&spec_of(source).unwrap_or(before));
                Err(error)
            }
        }
    }

    fn clone_running(&self, name: VmName) -> Result<Cloned, Error> {
        let live = LiveVm::of(self)?;
        let clone = self.link.folder().home().create(Some(&name))?;
        let folder = clone.folder().clone();
        match divide_running(&live, self.link.folder(), &clone, name) {
            Ok(frozen) => Ok(Cloned { sandbox: Self::of(folder, None), frozen: Some(frozen) }),
            Err(error) => {
                // Its monitor drops what it does not need.
                let _ = clone.remove();
                Err(error)
            }
        }
    }
}

/// The source goes on with a layer of its own, and the clone gets one upon what lay below.
fn divide_running(
    live: &LiveVm<'_>,
    source: &VmFolder,
    clone: &HeldVm,
    name: VmName,
) -> Result<Duration, Error> {
    let store = ImageStore::open(source.home().root())?;
    check_own_disks(&live.spec)?;
    let shared = live.layers()?;
    // From here on they stay, whatever becomes of the source; that they are still its own is seen by its monitor.
    clone.share(source, |owned| is_among(owned, shared))?;
    live.see_on_disk(&store)?;
    let layers = layer_upon(&store, clone, shared, virtual_size(shared)?)?;
    let frozen = live.add_layer(&store, None)?;
    describe(clone, &live.spec, layers, name)?;
    Ok(frozen)
}

/// Whether nobody but a VM itself is to have what it writes beside its root.
fn check_own_disks(spec: &VmSpec) -> Result<(), Error> {
    let Some(disk) = spec.machine.disks.iter().skip(1).find(|disk| !disk.read_only) else { return Ok(()) };
    let path = disk.layers.last().map(|layer| layer.path.display().to_string()).unwrap_or_default();
    let vm = spec.display_name();
    let message =
        format!("only one VM can write the disk {path}, which {vm} has: vmm disk detach {vm} {path}");
    Err(Error::Invalid { message })
}

/// Whether what a VM owns is one of these layers.
fn is_among(owned: &Path, layers: &[LayerSpec]) -> bool {
    layers.iter().any(|layer| layer.path.parent().and_then(Path::file_name) == owned.file_name())
}

/// Both get a new layer; what lies below is written by nobody any more.
fn divide(source: &HeldVm, clone: &HeldVm, name: VmName) -> Result<(), Error> {
    let store = ImageStore::open(source.folder().home().root())?;
    let mut spec = spec_of(source)?;
    check_own_disks(&spec)?;
    let layers = root(&spec)?.layers.clone();
    let size = virtual_size(&layers)?;
    // A layer that was never written need not be shared: a VM that is cloned again and again gets no deeper by it.
    let untouched = has_untouched_top(&layers)?;
    let shared = &layers[..layers.len() - usize::from(untouched)];
    // What the source owns of it is the clone's now too. The rest is an image's.
    clone.share(source.folder(), |owned| is_among(owned, shared))?;
    let theirs = layer_upon(&store, clone, shared, size)?;
    if !untouched {
        spec.machine.disks[0].layers = layer_upon(&store, source, shared, size)?;
        // From here on the source does not write what the clone will stand on.
        source.write_spec(&spec)?;
    }
    describe(clone, &spec, theirs, name)
}

/// Writes down what a clone is: what the VM is that it was made from, but for what is its own.
fn describe(clone: &HeldVm, source: &VmSpec, layers: Vec<LayerSpec>, name: VmName) -> Result<(), Error> {
    let folder = clone.folder();
    let mut spec = source.clone();
    spec.machine.disks[0].layers = layers;
    spec.configuration.host_name = Some(name.as_str().to_owned());
    spec.id = folder.id().clone();
    spec.name = Some(name);
    spec.remove = false;
    spec.created = Timestamp::now();
    spec.snapshots = Vec::new();
    spec.machine.vsock.socket = VmFolder::vsock_socket(&folder.sockets());
    if spec.own_kernel {
        let own = folder.path().join("kernel");
        fs::copy(&source.machine.boot.kernel, &own)
            .and_then(|_| fs::File::open(&own)?.sync_all())
            .with_context(|_| SystemSnafu { what: format!("write {}", own.display()) })?;
        spec.machine.boot.kernel = own;
    }
    Ok(clone.write_spec(&spec)?)
}

/// A VM that is at work is not one that runs already: what is to be done is to stop it.
pub(super) fn stop_first(error: Error) -> Error {
    match error {
        Error::AlreadyRunning { name } => Error::MustStop { name },
        error => error,
    }
}
