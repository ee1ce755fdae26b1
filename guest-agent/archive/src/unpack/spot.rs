//! Where a member is made: by its name, and by what the archive as a whole becomes.

use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::{STAGED, Unpacker, look, refuse};
use crate::beneath::{names, shown};
use crate::error::{Error, trying};
use crate::member::{Kind, Member};
use crate::place::Target;

/// Where a member is made.
pub(super) struct Spot {
    /// Beneath the stage's folder, with the names that things have for now. Empty: the folder itself.
    pub path: Vec<u8>,
    /// Nobody else has anything there: it is made under its own name.
    pub fresh: bool,
}

impl Unpacker {
    /// Finds where a member is made. `None`: nowhere, for it is the target itself.
    pub(super) fn spot(&mut self, member: &Member) -> Result<Option<Spot>, Error> {
        let parts = names(&member.name)?;
        let is_folder = member.kind == Kind::Folder;
        match &self.target {
            Target::As { name, only_a_folder, replaces_file } => {
                let root = match &self.root {
                    Some(root) => root,
                    None => {
                        let path = || shown(&self.stage.shown, name);
                        if is_folder && *replaces_file {
                            return Err(Error::Unfit {
                                path: path(),
                                why: "is a file, and a folder is to have its name",
                            });
                        }
                        if !is_folder && *only_a_folder {
                            return Err(Error::Unfit {
                                path: path(),
                                why: "is no folder: it ends with a slash",
                            });
                        }
                        if parts.len() > 1 {
                            return refuse(member, "comes before the folder that it is in");
                        }
                        let root = parts.iter().map(|part| part.to_vec()).collect();
                        self.stage.add(name);
                        self.root.insert(root)
                    }
                };
                let (Some(temporary), Some(rest)) = (self.stage.get(name), rest_of(root, &parts)) else {
                    return refuse(member, "is not in the archive's first member");
                };
                Ok(Some(Spot { path: join(temporary, rest), fresh: true }))
            }
            Target::New { name } => {
                if parts.is_empty() && is_folder {
                    self.root = Some(Vec::new());
                }
                let temporary = self.stage.get(name).unwrap_or_default();
                Ok(Some(Spot { path: join(temporary, &parts), fresh: true }))
            }
            Target::Into => {
                let Some((first, rest)) = parts.split_first() else {
                    if self.roots.is_some() {
                        return refuse(member, "was not asked for");
                    }
                    return Ok(Some(Spot { path: Vec::new(), fresh: false }));
                };
                if self.roots.as_ref().is_some_and(|roots| !roots.contains(*first)) {
                    return refuse(member, "was not asked for");
                }
                if let Some(temporary) = self.stage.get(first) {
                    return Ok(Some(Spot { path: join(temporary, rest), fresh: true }));
                }
                let path = || shown(&self.stage.shown, first);
                let there = look(self.stage.folder.as_fd(), first).map_err(trying("look at", &path()))?;
                let goes_in = is_folder || !rest.is_empty();
                match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                    Some(FileType::Directory) if goes_in => {
                        return Ok(Some(Spot { path: join(b"", &parts), fresh: false }));
                    }
                    Some(FileType::Directory) => {
                        return Err(Error::Unfit {
                            path: path(),
                            why: "is a folder, and something else is to have its name",
                        });
                    }
                    Some(_) if goes_in => return Err(Error::Unfit { path: path(), why: "is no folder" }),
                    Some(kind) => self.replaceable(first, kind)?,
                    None => {}
                }
                if self.stage.len() >= STAGED {
                    self.leave_folders(b"")?;
                    self.stage.commit()?;
                }
                let temporary = self.stage.add(first);
                Ok(Some(Spot { path: join(&temporary, rest), fresh: true }))
            }
        }
    }

    /// Where a member is that came before.
    pub(super) fn spot_of_earlier(&self, member: &Member, name: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = names(name).or_else(|_| refuse(member, "is a link to what is not in the target"))?;
        let earlier = match &self.target {
            Target::As { name, .. } => {
                let root = self.root.as_deref().unwrap_or_default();
                self.stage.get(name).zip(rest_of(root, &parts)).map(|(temporary, rest)| join(temporary, rest))
            }
            Target::New { name } => self.stage.get(name).map(|temporary| join(temporary, &parts)),
            Target::Into => parts.split_first().map(|(first, rest)| match self.stage.get(first) {
                Some(temporary) => join(temporary, rest),
                None => join(b"", &parts),
            }),
        };
        earlier.map_or_else(|| refuse(member, "is a link to what is not in the target"), Ok)
    }

    /// A path as its user knows it.
    pub(super) fn path(&self, path: &[u8]) -> PathBuf {
        let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
        match self.stage.name_of(&path[..end]) {
            Some(name) => shown(&self.stage.shown, &[name, &path[end..]].concat()),
            None => shown(&self.stage.shown, path),
        }
    }
}

/// What follows the names of a root, if a path is beneath it.
fn rest_of<'a, 'b>(root: &[Vec<u8>], parts: &'a [&'b [u8]]) -> Option<&'a [&'b [u8]]> {
    let (first, rest) = parts.split_at_checked(root.len())?;
    first.iter().eq(root).then_some(rest)
}

fn join(first: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let mut path = first.to_vec();
    for part in rest {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    path
}
