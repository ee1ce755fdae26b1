//! Space that a VM's disk takes, given back to the host: its layers become fewer, and lose what the guest discarded.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use snafu::ResultExt;
use vmm_disk::{Format, LayerSpec};
use vmm_sys::file::if_there;

use super::outside::{self, Found, Outside};
use super::{is_own, layer_id, root};
use crate::home::{HeldVm, VmSpec};
use crate::image::{ImageStore, NewLayer};
use crate::sandbox::error::{DiskSnafu, Error, SystemSnafu};
use crate::sandbox::{CancelToken, Sandbox};

/// What is made in a VM's folder before it is a layer of its own.
const PARTIAL: &str = "disk.partial";

/// What became of the space that a VM's disk takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiskSpace {
    /// How many layers the disk had, those of the image among them.
    pub layers_before: usize,
    /// How many it has now.
    pub layers_after: usize,
    /// What the layers that were written anew took of the host's disk, in bytes.
    pub before: u64,
    /// What the one takes that they became.
    pub after: u64,
    /// How much less of the host's disk is in use now.
    pub given_back: u64,
    /// How many of those layers are still there, for an image, a snapshot or another VM needs them.
    pub kept: usize,
}

/// Which layers are written anew, as one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The VM's own.
    Own,
    /// Those of its image, too.
    All,
    /// The top one.
    Top,
}

impl Part {
    /// With fewer layers there is nothing to be done.
    fn least(self) -> usize {
        if self == Self::Top { 1 } else { 2 }
    }
}

impl Sandbox {
    /// Makes one layer of those that its disk has above its image. The others are removed, unless a snapshot or another
    /// VM needs them. The disk stays what it is at every moment; the VM must not run.
    ///
    /// An overlay at a place of its user's choice ([`crate::SandboxBuilder::overlay`]) stays there and takes the others in.
    /// Where a snapshot or another VM needs it as it is, those above it become one; it is an error if that is one already.
    pub fn flatten(&self, token: &CancelToken) -> Result<DiskSpace, Error> {
        self.rewrite(Part::Own, token)
    }

    /// As [`Sandbox::flatten`], with the layers of the image in it, too: the disk needs the image no more, and has all of
    /// it for itself.
    pub fn flatten_all(&self, token: &CancelToken) -> Result<DiskSpace, Error> {
        self.rewrite(Part::All, token)
    }

    /// Writes the top layer of its disk anew without what its guest has discarded or zeroed, if that takes less. The disk
    /// stays what it is at every moment; the VM must not run.
    pub fn compact_disk(&self, token: &CancelToken) -> Result<DiskSpace, Error> {
        self.rewrite(Part::Top, token)
    }

    fn rewrite(&self, part: Part, token: &CancelToken) -> Result<DiskSpace, Error> {
        let (mut space, old, anew) = self.change_disk(|held, store, spec| {
            let layers = root(spec)?.layers.clone();
            let (first, outside) = above_what_others_need(part, held, spec)?;
            let old = with_sizes(&layers[first..])?;
            let before = old.iter().map(|(_, size)| size).sum();
            let count = layers.len();
            let mut space = DiskSpace {
                layers_before: count,
                layers_after: count,
                before,
                after: before,
                given_back: 0,
                kept: 0,
            };
            if old.len() < part.least() {
                return Ok((space, Vec::new(), None));
            }
            let merged = match &outside {
                Some(outside) => {
                    Merged::write(outside.partial(), &layers, (first, outside.position()), token)?
                }
                None => Merged::write(held.folder().path().join(PARTIAL), &layers, (first, first), token)?,
            };
            let after = merged.size()?;
            if part == Part::Top && after >= before {
                return Ok((space, Vec::new(), None));
            }
            space.after = after;
            space.layers_after = first + 1;
            let anew = match outside {
                Some(outside) => Some(outside.put(store, spec, first, &merged.0)?),
                None => {
                    put_upon(store, held, spec, first, &merged)?;
                    None
                }
            };
            Ok((space, old, anew))
        })?;
        // What nobody needed any more is gone now.
        let is_kept = |path: &PathBuf| path.exists() && anew.as_ref() != Some(path);
        let (kept, gone): (Vec<_>, Vec<_>) = old.into_iter().partition(|(path, _)| is_kept(path));
        let gone: u64 = gone.iter().map(|(_, size)| size).sum();
        space.given_back = gone.saturating_sub(space.after);
        space.kept = kept.len();
        Ok(space)
    }
}

/// Where the part begins, and the file of the user's in it: above one that others need as it is, if there is enough above
/// that to be made one.
fn above_what_others_need(
    part: Part,
    held: &HeldVm,
    spec: &VmSpec,
) -> Result<(usize, Option<Outside>), Error> {
    let layers = &root(spec)?.layers;
    let first = first_of(part, held, layers)?;
    match Outside::among(held, spec, first)? {
        None => Ok((first, None)),
        Some(Found::Free(outside)) => Ok((first, Some(outside))),
        Some(Found::Needed { position, .. }) if layers.len() - position > part.least() => {
            Ok((position + 1, None))
        }
        Some(Found::Needed { file, who, .. }) => {
            let message = format!("the overlay {} stays as it is, for {who}", file.display());
            Err(Error::Invalid { message })
        }
    }
}

/// Where the part begins in a chain of layers.
fn first_of(part: Part, held: &HeldVm, layers: &[LayerSpec]) -> Result<usize, Error> {
    let owned = held.folder().owned()?;
    let own = layers.iter().rev().take_while(|layer| is_own(&owned, &layer.path)).count();
    Ok(match part {
        Part::All => 0,
        Part::Own => layers.len() - own,
        Part::Top => layers.len() - own.min(1),
    })
}

/// The layers' data, with what each takes of the host's disk.
fn with_sizes(layers: &[LayerSpec]) -> Result<Vec<(PathBuf, u64)>, Error> {
    layers
        .iter()
        .map(|layer| {
            let info = vmm_disk::inspect(&layer.path, layer.format).context(DiskSnafu)?;
            Ok((layer.path.clone(), info.allocated_size))
        })
        .collect()
}

/// Layers as one, in the VM's folder or beside the file that they become: the store is not locked for as long as that takes.
/// It is removed when this is dropped before it has become a layer.
struct Merged(PathBuf);

impl Merged {
    /// Merges the layers from the `first` on. Until they are said to be one, that one may lie upon the `over` lowest.
    fn write(
        path: PathBuf,
        layers: &[LayerSpec],
        (first, over): (usize, usize),
        token: &CancelToken,
    ) -> Result<Self, Error> {
        remove_if_there(&path)?;
        let merged = Self(path);
        match vmm_disk::merge_layers_over(layers, first, over, &merged.0, &mut |_| !token.is_cancelled()) {
            Err(vmm_disk::Error::CopyStopped) => Err(Error::Cancelled),
            written => written.context(DiskSnafu).map(|_| merged),
        }
    }

    /// What it takes of the host's disk, once it is there.
    fn size(&self) -> Result<u64, Error> {
        let size = || {
            let file = File::open(&self.0)?;
            file.sync_all()?;
            Ok(file.metadata()?.blocks() * 512)
        };
        size().with_context(|_| SystemSnafu { what: format!("write {}", self.0.display()) })
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        // Where it cannot be removed now, the next operation does.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what an operation left that died.
pub(super) fn clear_partial(held: &HeldVm) -> Result<(), Error> {
    remove_if_there(&held.folder().path().join(PARTIAL))?;
    let files = held.folder().owned()?.into_iter().filter_map(|layer| outside::file_of(&layer));
    files.map(|file| vmm_disk::partial_beside(&file)).try_for_each(|partial| remove_if_there(&partial))
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    if_there(fs::remove_file(path))
        .with_context(|_| SystemSnafu { what: format!("remove {}", path.display()) })
}

/// Makes it the layer upon the `first` lowest.
fn put_upon(
    store: &ImageStore,
    held: &HeldVm,
    spec: &mut VmSpec,
    first: usize,
    merged: &Merged,
) -> Result<(), Error> {
    let layers = &mut spec.machine.disks[0].layers;
    layers.truncate(first);
    let below = layers.last().and_then(|layer| layer_id(&layer.path));
    let new = NewLayer { format: Format::Qcow2, below, durable: true };
    let id = store.layers().draw_id()?;
    held.will_own(&store.layers().folder_of(&id))?;
    layers.push(store.layers().create_as(id, new, |path| fs::rename(&merged.0, path))?.spec());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Contents, prepare, token, vm};
    use super::*;
    use crate::home::Home;

    fn home() -> (tempfile::TempDir, Home, Contents) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path().join("home")).unwrap();
        prepare(&home);
        let contents = Contents::read(&home);
        (folder, home, contents)
    }

    #[test]
    fn a_flattened_disk_shows_the_same_in_fewer_layers_that_take_less() {
        let (_folder, home, mut contents) = home();
        let vm = vm(&home);
        vm.remove_snapshot("old").unwrap();
        contents.disks.remove("box@old");
        let space = vm.flatten(&token()).unwrap();
        assert_eq!((space.layers_before, space.layers_after, space.kept), (4, 2, 0));
        assert_eq!(space.given_back, space.before - space.after);
        assert!(space.given_back > 0 && Contents::read(&home) == contents);
        let again = vm.flatten(&token()).unwrap();
        assert_eq!((again.layers_before, again.layers_after, again.given_back), (2, 2, 0));
        // The image's layer stays, whoever needs it.
        let all = vm.flatten_all(&token()).unwrap();
        assert_eq!((all.layers_before, all.layers_after, all.kept), (2, 1, 1));
        assert_eq!(Contents::read(&home), contents);
    }

    #[test]
    fn layers_that_a_snapshot_or_a_clone_needs_stay() {
        let (_folder, home, contents) = home();
        let space = vm(&home).flatten(&token()).unwrap();
        assert_eq!((space.layers_after, space.kept), (2, 2));
        assert_eq!(Contents::read(&home), contents);
        vm(&home).remove_snapshot("old").unwrap();
        let copy = vm(&home).clone_to("copy").unwrap().sandbox;
        vm(&home).create_snapshot("new").unwrap();
        let contents = Contents::read(&home);
        let space = copy.flatten(&token()).unwrap();
        assert_eq!((space.layers_before, space.layers_after, space.kept), (3, 2, 1));
        assert_eq!(Contents::read(&home), contents);
    }

    #[test]
    fn a_compacted_disk_shows_the_same_and_takes_no_more() {
        let (_folder, home, contents) = home();
        let space = vm(&home).compact_disk(&token()).unwrap();
        assert!(space.after < space.before, "{space:?}");
        assert_eq!((space.layers_after, space.given_back), (4, space.before - space.after));
        assert_eq!(Contents::read(&home), contents);
        let again = vm(&home).compact_disk(&token()).unwrap();
        assert_eq!((again.before, again.after, again.given_back), (space.after, space.after, 0));
    }

    #[test]
    fn what_is_cancelled_leaves_everything_as_it_was() {
        let (_folder, home, contents) = home();
        let cancelled = token();
        cancelled.cancel();
        let layers = || fs::read_dir(home.root().join("layers")).unwrap().count();
        let before = layers();
        assert!(matches!(vm(&home).flatten(&cancelled), Err(Error::Cancelled)));
        assert!(Contents::read(&home) == contents && layers() == before);
        assert!(!home.find("box").unwrap().path().join(PARTIAL).exists());
    }
}
