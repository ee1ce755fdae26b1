//! The modules of a kernel where they are not on the disk: in a folder, a tar archive, or an initial file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use snafu::{OptionExt, ResultExt, ensure};

use super::super::error::{ImportSnafu, NoMemberSnafu, Result, StorageSnafu, TarSnafu, TooLargeSnafu};
use super::super::files;
use super::super::kernel_modules::ModuleFiles;
use super::super::root;
use super::super::transform::archive::Archive;
use super::super::transform::tar::{self, ReadAt, TarMember};
use super::super::transform::{self, Job};
use super::{Import, cpio, unpack};
use crate::boot::Compression;

/// Where paths of modules begin.
const FOLDER: &str = "/lib/modules/";

/// What holds modules.
pub(super) enum ModuleSource {
    /// A folder, perhaps empty: then the kernel needs none.
    Folder(PathBuf),
    /// An archive: the files in it, by their names behind `lib/modules/`.
    Archive { path: PathBuf, file: File, members: BTreeMap<String, TarMember> },
}

impl ModuleSource {
    /// Opens what the user named, if he did. What is packed is unpacked into a folder.
    pub(super) fn open(import: &Import, folder: &Path, job: Job<'_>) -> Result<Option<Self>> {
        match (&import.modules, &import.initrd) {
            (Some(path), _) if path.is_dir() => Ok(Some(Self::Folder(path.clone()))),
            (Some(path), _) => Self::open_archive(path, folder, job).map(Some),
            (None, Some(path)) => Self::open_archive(path, folder, job).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn open_archive(path: &Path, folder: &Path, job: Job<'_>) -> Result<Self> {
        let mut members = Vec::new();
        let mut current = path.to_owned();
        // An initial file system may be several archives, of which the last is packed.
        for part in 0..cpio::MOST_ARCHIVES {
            let first = unpack::first_bytes(&current)?;
            let next = folder.join(format!("modules-{part}"));
            if let Some(compression) = Compression::of(&first) {
                transform::decompress(compression, &current, &next, job)?;
                current = next;
                continue;
            }
            let file = File::open(&current).context(StorageSnafu { action: "open", path: &current })?;
            if Archive::of(&first) == Some(Archive::Tar) {
                members = tar::members(&file).context(TarSnafu { path })?;
                return Ok(Self::archive(path, file, members));
            }
            ensure!(
                cpio::is_cpio(&first),
                ImportSnafu {
                    path,
                    why: "it is neither a folder, nor a tar archive, nor an initial file system"
                }
            );
            let (found, end) = cpio::members(&file).context(TarSnafu { path })?;
            members.extend(found);
            let with_modules = members.iter().any(|member| module_name(&member.name).is_some());
            let rest = file.metadata().context(StorageSnafu { action: "read", path: &current })?.len() - end;
            if with_modules || rest == 0 {
                return Ok(Self::archive(path, file, members));
            }
            // What lies behind is another archive.
            members.clear();
            let reader = ReadAt { file: &file, at: end };
            job.write(reader, &next, &path.display().to_string(), None)?.context(TarSnafu { path })?;
            current = next;
        }
        ImportSnafu { path, why: "it is too many archives in one" }.fail()
    }

    fn archive(path: &Path, file: File, members: Vec<TarMember>) -> Self {
        let named = members.into_iter().filter_map(|member| Some((module_name(&member.name)?, member)));
        Self::Archive { path: path.to_owned(), file, members: named.collect() }
    }
}

/// The part of a file's name behind `lib/modules/`.
fn module_name(name: &str) -> Option<String> {
    let name = name.trim_start_matches("./").trim_start_matches('/');
    let name = name.strip_prefix("usr/").unwrap_or(name).strip_prefix("lib/modules/")?;
    Some(name.to_owned())
}

impl ModuleFiles for ModuleSource {
    fn has(&self, path: &str) -> Result<bool> {
        let name = path.strip_prefix(FOLDER).unwrap_or(path);
        Ok(match self {
            Self::Folder(folder) => place_in(folder, name).is_some(),
            Self::Archive { members, .. } => {
                members.contains_key(name) || members.keys().any(|other| is_beneath(other, name))
            }
        })
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let name = path.strip_prefix(FOLDER).unwrap_or(path);
        let contents = match self {
            Self::Folder(folder) => match place_in(folder, name) {
                // Nothing is in an empty folder, and nothing is wanted of it.
                _ if is_empty(folder) => Vec::new(),
                Some(place) => files::read(&place, limit)?.unwrap_or_default(),
                None => return NoMemberSnafu { name, path: folder }.fail(),
            },
            Self::Archive { path, file, members } => {
                let member = members.get(name).context(NoMemberSnafu { name, path })?;
                read_member(path, file, member, limit)?
            }
        };
        root::unpack(name, contents, limit)
    }
}

fn is_beneath(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// Where a path of modules is in a folder: this may be the folder of one release, that of all, or a whole root.
fn place_in(folder: &Path, name: &str) -> Option<PathBuf> {
    if is_empty(folder) {
        return Some(folder.to_owned());
    }
    let (_, in_release) = name.split_once('/').unwrap_or((name, ""));
    let own = folder.join("modules.dep").exists().then(|| folder.join(in_release));
    let places = [own, Some(folder.join(name)), Some(folder.join("lib/modules").join(name))];
    places.into_iter().flatten().find(|place| place.exists())
}

fn read_member(path: &Path, file: &File, member: &TarMember, limit: u64) -> Result<Vec<u8>> {
    ensure!(member.length <= limit, TooLargeSnafu { what: &member.name, limit });
    let mut contents = vec![0; usize::try_from(member.length).unwrap_or_default()];
    for piece in &member.pieces {
        let place = usize::try_from(piece.at).ok().zip(usize::try_from(piece.length).ok());
        let part = place.and_then(|(at, length)| contents.get_mut(at..at.checked_add(length)?));
        let part = part.context(NoMemberSnafu { name: &member.name, path })?;
        ReadAt { file, at: piece.in_archive }.read_exact(part).context(TarSnafu { path })?;
    }
    Ok(contents)
}
