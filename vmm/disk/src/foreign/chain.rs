//! The files that a foreign disk is made of: the one that the user named, and, for qcow2, those that it builds on.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open, openat};
use snafu::{OptionExt, ResultExt, ensure};

use super::{
    BackingSnafu, ForeignDisk, ForeignError, ForeignFormat, OpenBackingSnafu, ReadForeignSnafu, check_size,
    open_foreign_storage, probe,
};
use crate::chain::{lock_layer, open_layer};
use crate::error::{ForeignSnafu, Qcow2Snafu, TooDeepSnafu};
use crate::qcow2::{Header, Qcow2Image};
use crate::{DiskImage, Error, FileStorage, MAX_LAYERS};

/// Opens the disk that the user named.
pub(super) fn open_named(path: &Path) -> Result<ForeignDisk, Error> {
    let named = Named::new(open_layer(path, false)?, path)?;
    let format = probe(&*named.storage).context(ForeignSnafu { path })?;
    if format == ForeignFormat::Qcow2 {
        return open_qcow2(named);
    }
    let disk = open_foreign_storage(named.storage, format).context(ForeignSnafu { path })?;
    Ok(ForeignDisk { disk, format, files: vec![named.path] })
}

/// A file of the chain, open and locked against writers.
struct Named {
    path: PathBuf,
    /// Device and inode, by which a file is known under any name.
    identity: (u64, u64),
    storage: Arc<FileStorage>,
}

impl Named {
    fn new(file: File, path: &Path) -> Result<Self, Error> {
        let metadata = file.metadata().context(ReadForeignSnafu).context(ForeignSnafu { path })?;
        let identity = (metadata.dev(), metadata.ino());
        let storage = Arc::new(lock_layer(file, path, false)?);
        Ok(Self { path: path.to_owned(), identity, storage })
    }
}

/// A file of a chain, from the top down, with its header where it is qcow2.
type Found = (Named, Option<Header>);

fn open_qcow2(top: Named) -> Result<ForeignDisk, Error> {
    let root = parent(&top.path).to_owned();
    let mut chain: Vec<Found> = Vec::new();
    let mut next = Some((top, ForeignFormat::Qcow2));
    while let Some((file, format)) = next.take() {
        ensure!(chain.len() < MAX_LAYERS, TooDeepSnafu { count: chain.len() + 1 });
        let header = match format {
            ForeignFormat::Qcow2 => {
                Some(Header::read(&*file.storage).context(Qcow2Snafu { path: &file.path })?)
            }
            _ => None,
        };
        if let Some(name) = header.as_ref().and_then(|header| header.backing_name.clone()) {
            let format = header.as_ref().and_then(|header| header.backing_format.as_deref());
            next = Some(follow(&root, &file.path, &name, format)?);
        }
        chain.push((file, header));
        if let Some((file, _)) = &next {
            let loops = chain.iter().any(|(seen, _)| seen.identity == file.identity);
            let name = file.path.display().to_string();
            ensure_backing(!loops, &top_path(&chain), &name, "that leads back to where it came from")?;
        }
    }
    let files = chain.iter().map(|(file, _)| file.path.clone()).collect();
    let disk = assemble(chain)?;
    Ok(ForeignDisk { disk, format: ForeignFormat::Qcow2, files })
}

fn top_path(chain: &[Found]) -> PathBuf {
    chain.first().map(|(file, _)| file.path.clone()).unwrap_or_default()
}

/// Puts the layers upon each other, the base first.
fn assemble(chain: Vec<Found>) -> Result<Arc<dyn DiskImage>, Error> {
    let top = top_path(&chain);
    let mut disk: Option<Arc<dyn DiskImage>> = None;
    for (file, header) in chain.into_iter().rev() {
        let Named { path, storage, .. } = file;
        disk = Some(match header {
            Some(header) => {
                check_size(header.size).context(ForeignSnafu { path: &path })?;
                let image = Qcow2Image::open_with(&header, storage, disk, true);
                Arc::new(image.context(Qcow2Snafu { path })?)
            }
            None => open_foreign_storage(storage, ForeignFormat::Raw).context(ForeignSnafu { path })?,
        });
    }
    // There is always the one that was named.
    disk.context(super::EmptySnafu).context(ForeignSnafu { path: top })
}

fn ensure_backing(good: bool, path: &Path, name: &str, why: &'static str) -> Result<(), Error> {
    let refused = || -> Result<(), ForeignError> {
        ensure!(good, BackingSnafu { name, why });
        Ok(())
    };
    refused().context(ForeignSnafu { path })
}

/// Opens what a header names: a file in `root` or beneath it, raw or qcow2.
fn follow(
    root: &Path,
    from: &Path,
    name: &[u8],
    format: Option<&[u8]>,
) -> Result<(Named, ForeignFormat), Error> {
    let shown = String::from_utf8_lossy(name).escape_debug().to_string();
    let refuse = |why| ensure_backing(false, from, &shown, why);
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    let is_protocol = name.split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':'));
    if is_protocol || name.contains(&0) {
        refuse("only the name of a file is followed")?;
    }
    let named = parent(from).join(std::ffi::OsStr::from_bytes(name));
    let Some(inside) = beneath(root, &named) else {
        refuse(
            "only files in the folder of the file that you named, or beneath it, are read, and no hidden ones",
        )?;
        return Err(Error::NoLayers);
    };
    let file = open_beneath(root, &inside).context(OpenBackingSnafu { name: &shown });
    let file = Named::new(file.context(ForeignSnafu { path: from })?, &root.join(&inside))?;
    let format = match format {
        Some(b"raw") => ForeignFormat::Raw,
        Some(b"qcow2") => ForeignFormat::Qcow2,
        // Images of old do not tell.
        None => probe(&*file.storage).context(ForeignSnafu { path: &file.path })?,
        Some(_) => {
            refuse("only raw and qcow2 are read beneath a qcow2 image")?;
            ForeignFormat::Raw
        }
    };
    if !matches!(format, ForeignFormat::Raw | ForeignFormat::Qcow2) {
        refuse("only raw and qcow2 are read beneath a qcow2 image")?;
    }
    Ok((file, format))
}

/// The folder that a file is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The part of a path beneath a folder, going by the names alone; none if it leads out of it, or to what is hidden.
fn beneath(root: &Path, path: &Path) -> Option<PathBuf> {
    let plain = |path: &Path| -> Option<PathBuf> {
        let mut plain = PathBuf::new();
        for component in std::path::absolute(path).ok()?.components() {
            match component {
                Component::ParentDir => {
                    plain.pop();
                }
                Component::CurDir => {}
                other => plain.push(other),
            }
        }
        Some(plain)
    };
    let inside = plain(path)?.strip_prefix(plain(root)?).ok()?.to_owned();
    let hidden = inside.components().any(|part| part.as_os_str().as_bytes().starts_with(b"."));
    (!hidden && !inside.as_os_str().is_empty()).then_some(inside)
}

/// Opens a file beneath a folder without following a link, step by step, so that nothing can be exchanged meanwhile.
fn open_beneath(root: &Path, inside: &Path) -> io::Result<File> {
    let folder_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = open(root, folder_flags, Mode::empty())?;
    for component in parent(inside).components() {
        if component != Component::CurDir {
            folder = openat(&folder, component.as_os_str(), folder_flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
    }
    let name = inside.file_name().unwrap_or_default();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(openat(&folder, name, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_beneath_a_folder_or_it_is_not() {
        let found = |path: &str| beneath(Path::new("/a/b"), Path::new(path));
        assert_eq!(found("/a/b/c"), Some("c".into()));
        assert_eq!(found("/a/b/c/../d/./e"), Some("d/e".into()));
        for path in [
            "/a/b",
            "/a",
            "/a/b/../c",
            "/a/b/c/../../../etc/passwd",
            "/a/bc/d",
            "/a/b/.ssh/id",
            "/a/b/c/.netrc",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
