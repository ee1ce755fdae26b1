//! A VM from another one: both go on from the same disk, each with a layer of its own.

use std::fs;
use std::path::Path;

use snafu::ResultExt;

use super::{drop_unneeded, has_untouched_top, layer_upon, root, spec_of, virtual_size};
use crate::home::{HeldVm, Timestamp, VmFolder, VmName, VmSpec};
use crate::image::ImageStore;
use crate::sandbox::error::{Error, SystemSnafu};
use crate::sandbox::{Sandbox, hold};

impl Sandbox {
    /// Makes a VM that starts from what is on the disk of this one, which must not run. It takes no time however large
    /// the disk is; both share what is on it now, and what either writes is its own.
    pub fn clone_to(&self, name: &str) -> Result<Self, Error> {
        let name: VmName = name.parse().map_err(crate::home::HomeError::from)?;
        let source = hold(self.link.folder(), self.name()).map_err(stop_first)?;
        let clone = self.link.folder().home().create(Some(&name))?;
        let folder = clone.folder().clone();
        let before = spec_of(&source)?;
        match divide(&source, &clone, name) {
            Ok(()) => Ok(Self::of(folder, None)),
            Err(error) => {
                // The first error is the one to tell. Whatever was not written down is needed by nobody.
                let _ = clone.remove();
                let _ = drop_unneeded(&source, &spec_of(&source).unwrap_or(before));
                Err(error)
            }
        }
    }
}

/// Both get a new layer; what lies below is written by nobody any more.
fn divide(source: &HeldVm, clone: &HeldVm, name: VmName) -> Result<(), Error> {
    let store = ImageStore::open(source.folder().home().root())?;
    let mut spec = spec_of(source)?;
    if let Some(disk) = spec.machine.disks.iter().skip(1).find(|disk| !disk.read_only) {
        let path = disk.layers.last().map(|layer| layer.path.display().to_string()).unwrap_or_default();
        let vm = spec.display_name();
        let message =
            format!("only one VM can write the disk {path}, which {vm} has: vmm disk detach {vm} {path}");
        return Err(Error::Invalid { message });
    }
    let layers = root(&spec)?.layers.clone();
    let size = virtual_size(&layers)?;
    // A layer that was never written need not be shared: a VM that is cloned again and again gets no deeper by it.
    let untouched = has_untouched_top(&layers)?;
    let shared = &layers[..layers.len() - usize::from(untouched)];
    let mut theirs = spec.clone();
    // What the source owns of it is the clone's now too. The rest is an image's.
    let is_shared = |owned: &Path| {
        shared.iter().any(|layer| layer.path.parent().and_then(Path::file_name) == owned.file_name())
    };
    clone.share(source, is_shared)?;
    theirs.machine.disks[0].layers = layer_upon(&store, clone, shared, size)?;
    if !untouched {
        spec.machine.disks[0].layers = layer_upon(&store, source, shared, size)?;
        // From here on the source does not write what the clone will stand on.
        source.write_spec(&spec)?;
    }
    describe(&mut theirs, clone.folder(), name);
    if theirs.own_kernel {
        let own = clone.folder().path().join("kernel");
        fs::copy(&spec.machine.boot.kernel, &own)
            .and_then(|_| fs::File::open(&own)?.sync_all())
            .with_context(|_| SystemSnafu { what: format!("write {}", own.display()) })?;
        theirs.machine.boot.kernel = own;
    }
    Ok(clone.write_spec(&theirs)?)
}

/// What a clone does not share with the VM that it was made from.
fn describe(spec: &mut VmSpec, folder: &VmFolder, name: VmName) {
    spec.configuration.host_name = Some(name.as_str().to_owned());
    spec.id = folder.id().clone();
    spec.name = Some(name);
    spec.created = Timestamp::now();
    spec.snapshots = Vec::new();
    spec.machine.vsock.socket = VmFolder::vsock_socket(&folder.sockets());
}

/// A VM that is at work is not one that runs already: what is to be done is to stop it.
pub(super) fn stop_first(error: Error) -> Error {
    match error {
        Error::AlreadyRunning { name } => Error::MustStop { name },
        error => error,
    }
}
