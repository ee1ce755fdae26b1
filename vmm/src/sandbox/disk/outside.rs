//! A layer of a VM's that lies in a file of its user's, where the overlay was asked for: it stays there, whatever becomes of
//! the layers.
//!
//! Layers upon it become one with it by a new file in its place. At that moment the others still lie upon it, and the disk
//! shows the same: where they have something, the new file has that, too, and else it has what the old one had. Only then
//! does the VM's description name it as the top.

use std::fs;
use std::path::{Path, PathBuf};

use snafu::ResultExt;

use super::{is_own, layer_id, root};
use crate::home::{HeldVm, KEPT, VmSpec};
use crate::image::ImageStore;
use crate::sandbox::error::{DiskSnafu, Error};

/// A layer in a file of the user's, which is to be written anew.
pub(super) struct Outside {
    /// Its position in the chain.
    position: usize,
    file: PathBuf,
}

/// What is among a VM's own layers.
pub(super) enum Found {
    /// Nobody else needs it as it is.
    Free(Outside),
    /// Others do: who, in words.
    Needed { position: usize, file: PathBuf, who: String },
}

/// Where a layer's folder leads to, if its data lies in a file of the user's. Where the user has moved that and left a
/// link, it is where the link leads.
pub(super) fn file_of(layer: &Path) -> Option<PathBuf> {
    let named = fs::read_link(layer.join("disk.qcow2")).ok()?;
    Some(fs::canonicalize(&named).unwrap_or(named))
}

impl Outside {
    /// The one among a VM's own layers from the `first` on, if there is one.
    pub(super) fn among(held: &HeldVm, spec: &VmSpec, first: usize) -> Result<Option<Found>, Error> {
        let owned = held.folder().owned()?;
        for (position, layer) in root(spec)?.layers.iter().enumerate().skip(first) {
            let Some(folder) = layer.path.parent() else { continue };
            if let (true, Some(file)) = (is_own(&owned, &layer.path), file_of(folder)) {
                if let Some(who) = who_needs(held, spec, folder)? {
                    return Ok(Some(Found::Needed { position, file, who }));
                }
                vmm_disk::check_replaceable(&file).context(DiskSnafu)?;
                return Ok(Some(Found::Free(Self { position, file })));
            }
        }
        Ok(None)
    }

    /// Where the new file is made.
    pub(super) fn partial(&self) -> PathBuf {
        vmm_disk::partial_beside(&self.file)
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Puts the new file in its place and makes it the layer upon the `first` lowest. Gives the layer's data.
    pub(super) fn put(
        self,
        store: &ImageStore,
        spec: &mut VmSpec,
        first: usize,
        merged: &Path,
    ) -> Result<PathBuf, Error> {
        let layers = &mut spec.machine.disks[0].layers;
        let layer = layers[self.position].clone();
        vmm_disk::replace_file(&self.file, merged).context(DiskSnafu)?;
        if let (true, Some(id)) = (first == 0, layer_id(&layer.path)) {
            store.layers().stand_alone(&id)?;
        }
        layers.truncate(first);
        layers.push(layer.clone());
        Ok(layer.path)
    }
}

/// Who else needs a layer as it is, in words.
fn who_needs(held: &HeldVm, spec: &VmSpec, folder: &Path) -> Result<Option<String>, Error> {
    if folder.join(KEPT).exists() {
        return Ok(Some("an image stands on it".to_owned()));
    }
    let needs = |path: &Path| path.file_name() == folder.file_name();
    let vm = spec.display_name();
    for snapshot in &spec.snapshots {
        if snapshot.layers.iter().any(|layer| layer.path.parent().is_some_and(needs)) {
            let name = &snapshot.name;
            return Ok(Some(format!("the snapshot {name} needs it: vmm snapshot rm {vm} {name}")));
        }
    }
    for other in held.folder().home().all_folders()? {
        if other.id() != held.folder().id() && other.owned()?.iter().any(|owned| needs(owned)) {
            let name =
                other.spec()?.map_or_else(|| other.id().to_string(), |spec| spec.display_name().to_owned());
            return Ok(Some(format!("the VM {name} needs it, too")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Contents, lay_outside, prepare, token, vm};
    use super::*;
    use crate::home::Home;

    fn home() -> (tempfile::TempDir, Home, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        prepare(&home);
        lay_outside(&home);
        let file = home.root().join("overlay.qcow2");
        (folder, home, file)
    }

    fn chain(home: &Home) -> Vec<PathBuf> {
        let spec = home.find("box").unwrap().spec().unwrap().unwrap();
        root(&spec).unwrap().layers.iter().map(|layer| layer.path.clone()).collect()
    }

    #[test]
    fn an_overlay_stays_where_its_user_put_it_when_layers_become_one() {
        for all in [false, true] {
            let (_folder, home, file) = home();
            let (contents, before) = (Contents::read(&home), chain(&home));
            fs::hard_link(&file, file.with_extension("other")).unwrap();
            let refused = vm(&home).flatten(&token()).unwrap_err();
            assert!(format!("{refused:?}").contains("Links"), "{refused:?}");
            fs::remove_file(file.with_extension("other")).unwrap();
            let sandbox = vm(&home);
            let space = if all { sandbox.flatten_all(&token()) } else { sandbox.flatten(&token()) }.unwrap();
            assert!(space.given_back > 0, "{space:?}");
            assert_eq!((space.layers_before, space.kept), (before.len(), usize::from(all)));
            assert_eq!(chain(&home), if all { &before[1..2] } else { &before[..2] });
            assert_eq!(fs::read_link(&before[1]).unwrap(), file);
            assert!(Contents::read(&home) == contents && !vmm_disk::partial_beside(&file).exists());
            let store = ImageStore::open(home.root()).unwrap();
            let layer = store.layers().layer(&layer_id(&before[1]).unwrap()).unwrap();
            assert_eq!(layer.below.is_none(), all);
            // No image is made of what its user may write, wherever in the chain it lies now.
            let refused = sandbox.commit(&"mine".parse().unwrap(), false, &()).unwrap_err().to_string();
            assert!(refused.contains("only a VM without an overlay of its user's"), "{refused}");
            sandbox.remove(false).unwrap();
            assert!(!file.exists());
        }
    }

    #[test]
    fn a_compacted_overlay_stays_where_its_user_put_it() {
        let (_folder, home, file) = home();
        vm(&home).flatten(&token()).unwrap();
        let spec = home.find("box").unwrap().spec().unwrap().unwrap();
        super::super::tests::write(&root(&spec).unwrap().layers, &[(0, 1 << 19, 0)]);
        let (contents, before) = (Contents::read(&home), chain(&home));
        fs::write(vmm_disk::partial_beside(&file), "left by a death").unwrap();
        let space = vm(&home).compact_disk(&token()).unwrap();
        assert!(space.after < space.before && space.kept == 0, "{space:?}");
        assert_eq!((chain(&home), fs::read_link(&before[1]).unwrap()), (before, file));
        assert!(Contents::read(&home) == contents);
    }

    #[test]
    fn an_overlay_that_others_need_is_left_as_it_is() {
        let (_folder, home, file) = home();
        let bytes = fs::read(&file).unwrap();
        vm(&home).create_snapshot("kept").unwrap();
        let contents = Contents::read(&home);
        // What lies above it becomes one, and then there is nothing left that could.
        assert_eq!(vm(&home).flatten(&token()).unwrap().layers_after, 3);
        assert!(Contents::read(&home) == contents);
        let refused = vm(&home).flatten(&token()).unwrap_err().to_string();
        assert!(refused.ends_with("for the snapshot kept needs it: vmm snapshot rm box kept"), "{refused}");
        let copy = vm(&home).clone_to("copy").unwrap().sandbox;
        copy.flatten(&token()).unwrap();
        let refused = copy.flatten(&token()).unwrap_err().to_string();
        assert!(refused.ends_with("for the VM box needs it, too"), "{refused}");
        assert!(fs::read(&file).unwrap() == bytes);
        copy.remove(false).unwrap();
        vm(&home).remove_snapshot("kept").unwrap();
        vm(&home).flatten(&token()).unwrap();
    }
}
