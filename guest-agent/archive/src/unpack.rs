//! Unpacking an archive beneath a folder.
//!
//! Folders are opened through no symbolic link and held open while something is made in them, so that no link leads out of
//! the target, whoever made it and when. Nothing is written in place: what has no name yet is made beside it or in a folder
//! that has none, and what is there is replaced by a rename.

mod attributes;
mod spot;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, chmodat, fchmod, linkat, mkdirat, openat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use vmm_sys::beneath::{make_node, open_folder};

use self::attributes::weight;
use self::spot::Spot;
use crate::beneath::{shown, split};
use crate::error::{Error, damaged, trying};
use crate::member::{Kind, Member};
use crate::place::{Place, Target};
use crate::reader::{Input, Reader, Streamed};
use crate::temporary::{Stage, temporary_name};

/// What is done with what an archive says, beside its names and contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Whose the files become.
    pub owner: Owner,
    /// Set-id bits and capabilities are kept.
    pub set_id: bool,
    /// Devices and pipes are made; they are refused otherwise.
    pub devices: bool,
    /// An archive with more members is refused.
    pub max_entries: Option<u64>,
}

/// Whose files become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Whoever unpacks them.
    #[default]
    Us,
    /// Whose they were, by number.
    Kept,
    /// This user's and this group's.
    Given {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
}

/// What was unpacked and is not in its place yet. Dropping it removes what had no place before.
#[derive(Debug)]
#[must_use = "what is unpacked is removed unless it is put in its place"]
pub struct Unpacked {
    stage: Stage,
    /// Members that were unpacked.
    pub entries: u64,
    /// Files whose set-id bits were taken.
    pub set_id_taken: u64,
    /// Extended attributes that the target's file system does not have.
    pub attributes_lost: u64,
}

impl Unpacked {
    /// Puts everything in its place.
    pub fn commit(mut self) -> Result<(), Error> {
        self.stage.commit()
    }
}

/// Unpacks an archive, and reads its stream to the end.
pub fn unpack(stream: impl Read, place: Place, options: UnpackOptions) -> Result<Unpacked, Error> {
    let mut reader = Reader::new(Streamed(stream));
    let mut unpacker = Unpacker::new(place, options)?;
    while let Some(member) = reader.next()? {
        unpacker.add(&member, &mut reader)?;
    }
    let unpacked = unpacker.finish()?;
    reader.finish()?;
    Ok(unpacked)
}

/// So many things that have no place yet wait for the end. Beyond, those that are whole get theirs.
const STAGED: usize = 4096;

/// The attributes of folders that are not complete take no more bytes.
const ATTRIBUTES_THAT_WAIT: usize = 16 << 20;

/// How much of a file is moved at once.
const BUFFER: usize = 128 * 1024;

/// Unpacks members one after the other.
#[derive(Debug)]
pub struct Unpacker {
    stage: Stage,
    target: Target,
    roots: Option<HashSet<Vec<u8>>>,
    options: UnpackOptions,
    /// The first name of all members, where there is one target for all of them.
    root: Option<Vec<Vec<u8>>>,
    /// The folder that was opened last.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Folders that get their mode and times once nothing more comes in them.
    folders: Vec<Unfinished>,
    waiting: usize,
    buffer: Box<[u8]>,
    entries: u64,
    set_id_taken: u64,
    attributes_lost: u64,
}

#[derive(Debug)]
struct Unfinished {
    path: Vec<u8>,
    member: Member,
}

impl Unpacker {
    /// Begins.
    pub fn new(place: Place, options: UnpackOptions) -> Result<Self, Error> {
        let mut stage = Stage::new(place.folder, place.shown);
        if let Target::New { name } = &place.target {
            let temporary = stage.add(name);
            let made = mkdirat(&stage.folder, &temporary[..], Mode::RWXU);
            let path = shown(&stage.shown, name);
            made.map_err(trying("make the folder", &path))?;
        }
        Ok(Self {
            stage,
            target: place.target,
            roots: place.roots,
            options,
            root: None,
            parent: None,
            folders: Vec::new(),
            waiting: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            entries: 0,
            set_id_taken: 0,
            attributes_lost: 0,
        })
    }

    /// Unpacks a member, whose data the reader has.
    pub fn add(&mut self, member: &Member, data: &mut Reader<impl Input>) -> Result<(), Error> {
        let Some(spot) = self.spot(member)? else { return Ok(()) };
        self.leave_folders(&spot.path)?;
        if spot.path.is_empty() {
            // The target, which is there, keeps its own mode, owner and times.
            return match member.kind {
                Kind::Folder => Ok(()),
                _ => refuse(member, "is no folder, and has the name of the target itself"),
            };
        }
        self.entries += 1;
        if let Some(most) = self.options.max_entries.filter(|most| self.entries > *most) {
            return Err(Error::TooMany { most });
        }
        match &member.kind {
            Kind::Folder => self.folder(member, spot),
            Kind::File => {
                self.parent(member, &spot.path)?;
                self.make(member, &spot, |unpacker, folder, name| unpacker.file(member, data, folder, name))
            }
            Kind::SymbolicLink(leads_to) => {
                if leads_to.contains(&0) || leads_to.is_empty() {
                    return refuse(member, "is a link that leads nowhere");
                }
                self.make(member, &spot, |unpacker, folder, name| {
                    symlinkat(&leads_to[..], folder, name)?;
                    unpacker.name_attributes(member, folder, name)
                })
            }
            Kind::HardLink(of) => self.hard_link(member, of, &spot),
            Kind::Node(node) if self.options.devices => self.make(member, &spot, |unpacker, folder, name| {
                make_node(folder, name, *node)?;
                unpacker.name_attributes(member, folder, name)?;
                let mode = unpacker.mode(member);
                Ok(chmodat(folder, name, mode, AtFlags::empty())?)
            }),
            Kind::Node(_) => {
                refuse(member, "is a device or a pipe, which is made only if asked for (--devices)")
            }
        }
    }

    /// Ends: what is unpacked is whole.
    pub fn finish(mut self) -> Result<Unpacked, Error> {
        self.leave_folders(b"")?;
        match &self.target {
            Target::As { .. } if self.root.is_none() => return damaged("it is empty"),
            Target::New { name } => {
                if let Some(temporary) = self.stage.get(name) {
                    let opened = open_folder(&self.stage.folder, temporary).map(|folder| {
                        let mode = rustix::fs::fstat(&folder).map(|stat| stat.st_mode);
                        // The archive said nothing of it.
                        if mode.is_ok_and(|mode| mode & 0o7777 == 0o700) && self.root.is_none() {
                            let _ = fchmod(&folder, Mode::from_raw_mode(0o755));
                            let _ = self.change_owner_of_implied(&folder);
                        }
                    });
                    opened.map_err(trying("open", &shown(&self.stage.shown, name)))?;
                }
            }
            _ => {}
        }
        Ok(Unpacked {
            stage: self.stage,
            entries: self.entries,
            set_id_taken: self.set_id_taken,
            attributes_lost: self.attributes_lost,
        })
    }

    /// Opens the folder that a path is in, and makes it where the archive has not named it.
    fn parent(&mut self, member: &Member, path: &[u8]) -> Result<(), Error> {
        let (folder, _) = split(path);
        if self.parent.as_ref().is_some_and(|(path, _)| path == folder) {
            return Ok(());
        }
        let opened = match open_folder(&self.stage.folder, folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_folders(folder),
            opened => opened,
        };
        match opened {
            Ok(opened) => {
                self.parent = Some((folder.to_vec(), opened));
                Ok(())
            }
            Err(error) if is_no_folder(&error) => {
                refuse(member, "has a name that goes through a symbolic link or a file")
            }
            Err(error) => Err(trying("open the folder", &self.path(folder))(error)),
        }
    }

    fn make_folders(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut at = 0;
        loop {
            let end = path[at..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| at + slash);
            let (parent, name) = split(&path[..end]);
            let parent = open_folder(&self.stage.folder, parent)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.change_owner_of_implied(&open_folder(&parent, name)?)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            if end == path.len() {
                return open_folder(&self.stage.folder, path);
            }
            at = end + 1;
        }
    }

    /// Makes something by its name in the folder that was opened last, and puts it in its place.
    fn make(
        &mut self,
        member: &Member,
        spot: &Spot,
        make: impl FnOnce(&mut Self, BorrowedFd<'_>, &[u8]) -> Result<(), Making>,
    ) -> Result<(), Error> {
        self.parent(member, &spot.path)?;
        let Some((path, folder)) = self.parent.take() else { return Ok(()) };
        let made = self.make_in(member, spot, folder.as_fd(), make);
        self.parent = Some((path, folder));
        made
    }

    fn make_in(
        &mut self,
        member: &Member,
        spot: &Spot,
        folder: BorrowedFd<'_>,
        make: impl FnOnce(&mut Self, BorrowedFd<'_>, &[u8]) -> Result<(), Making>,
    ) -> Result<(), Error> {
        let (_, name) = split(&spot.path);
        let failed = |unpacker: &Self, error: io::Error| {
            Err(trying(member.kind.verb(), &unpacker.path(&spot.path))(error))
        };
        match look(folder, name) {
            Err(error) => return failed(self, error),
            Ok(None) => {}
            Ok(Some(there)) => {
                let kind = FileType::from_raw_mode(there.st_mode);
                if kind == FileType::Directory {
                    let why = "is a folder, and something else is to have its name";
                    return Err(Error::Unfit { path: self.path(&spot.path), why });
                }
                self.replaceable(&spot.path, kind)?;
                // A member that comes twice: the last one holds.
                if spot.fresh
                    && let Err(errno) = unlinkat(folder, name, AtFlags::empty())
                {
                    return failed(self, errno.into());
                }
            }
        }
        let temporary = (!spot.fresh).then(|| temporary_name(name));
        let name_for_now = temporary.as_deref().unwrap_or(name);
        let mut made = make(self, folder, name_for_now);
        if let Some(temporary) = &temporary {
            if made.is_ok() {
                made = renameat(folder, &temporary[..], folder, name).map_err(Making::from);
            }
            // Also where both are names of one file, which are not renamed into one.
            let _ = unlinkat(folder, &temporary[..], AtFlags::empty());
        }
        match made {
            Ok(()) => Ok(()),
            Err(Making::File(error)) => failed(self, error),
            Err(Making::Archive(error)) => Err(error),
        }
    }

    /// Makes a file and fills it.
    fn file(
        &mut self,
        member: &Member,
        data: &mut Reader<impl Input>,
        folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Making> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        let mut end = 0;
        for piece in &member.pieces {
            let mut left = piece.length;
            end = piece.at;
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let length = data.read(&mut self.buffer[..most])?;
                if length == 0 {
                    return Err(Error::Damaged { what: "a member is shorter than it says" }.into());
                }
                file.write_all_at(&self.buffer[..length], end)?;
                end += length as u64;
                left -= length as u64;
            }
        }
        if end < member.length {
            file.set_len(member.length)?;
        }
        Ok(self.attributes(member, file.as_fd())?)
    }

    fn hard_link(&mut self, member: &Member, of: &[u8], spot: &Spot) -> Result<(), Error> {
        let earlier = self.spot_of_earlier(member, of)?;
        let (parent, leaf) = split(&earlier);
        if leaf.is_empty() || earlier == spot.path {
            return refuse(member, "is a link to itself");
        }
        let opened = match open_folder(&self.stage.folder, parent) {
            Err(error) if is_no_folder(&error) || error.kind() == io::ErrorKind::NotFound => {
                return refuse(member, "is a link to a member that is not there");
            }
            opened => opened.map_err(trying("open the folder", &self.path(parent)))?,
        };
        match look(opened.as_fd(), leaf).map(|there| there.map(|stat| FileType::from_raw_mode(stat.st_mode)))
        {
            Ok(Some(FileType::Directory)) => return refuse(member, "is a link to a folder"),
            Ok(Some(_)) => {}
            _ => return refuse(member, "is a link to a member that is not there"),
        }
        self.make(member, spot, |_, folder, name| Ok(linkat(&opened, leaf, folder, name, AtFlags::empty())?))
    }

    fn folder(&mut self, member: &Member, spot: Spot) -> Result<(), Error> {
        if spot.fresh && matches!(&self.target, Target::New { .. }) && !spot.path.contains(&b'/') {
            // It is made already.
            return self.finish_later(member, spot.path);
        }
        self.parent(member, &spot.path)?;
        let Some((_, folder)) = &self.parent else { return Ok(()) };
        let (_, name) = split(&spot.path);
        let failed = |error: io::Error| Err(trying("make the folder", &self.path(&spot.path))(error));
        match mkdirat(folder, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => match look(folder.as_fd(), name) {
                Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    // What was there before the archive keeps its own mode, owner and times.
                    if !spot.fresh {
                        return Ok(());
                    }
                }
                Ok(_) => {
                    let why = "is no folder, and a folder is to have its name";
                    return Err(Error::Unfit { path: self.path(&spot.path), why });
                }
                Err(error) => return failed(error),
            },
            Err(errno) => return failed(errno.into()),
        }
        self.finish_later(member, spot.path)
    }

    fn finish_later(&mut self, member: &Member, path: Vec<u8>) -> Result<(), Error> {
        self.folders.retain(|folder| folder.path != path);
        self.waiting =
            self.folders.iter().map(|folder| weight(&folder.member)).sum::<usize>() + weight(member);
        if self.waiting > ATTRIBUTES_THAT_WAIT {
            return refuse(member, "has too many extended attributes");
        }
        self.folders.push(Unfinished { path, member: member.clone() });
        Ok(())
    }

    /// Folders that this path is not in get their mode and times.
    fn leave_folders(&mut self, path: &[u8]) -> Result<(), Error> {
        while let Some(folder) = self.folders.pop_if(|folder| !is_in(path, &folder.path)) {
            let opened = open_folder(&self.stage.folder, &folder.path);
            let finished = opened.and_then(|opened| self.attributes(&folder.member, opened.as_fd()));
            finished.map_err(|error| {
                trying("give its mode, owner and times to", &self.path(&folder.path))(error)
            })?;
        }
        Ok(())
    }

    /// Whether what is there may be replaced: nobody wants a file in place of a device.
    fn replaceable(&self, path: &[u8], kind: FileType) -> Result<(), Error> {
        if matches!(kind, FileType::RegularFile | FileType::Symlink) || self.options.devices {
            return Ok(());
        }
        Err(Error::Unfit {
            path: self.path(path),
            why: "is a device, a pipe or a socket, and is not replaced",
        })
    }
}

/// Why a member was not made.
enum Making {
    /// The file system did not.
    File(io::Error),
    /// Its data did not come.
    Archive(Error),
}

impl From<io::Error> for Making {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<Errno> for Making {
    fn from(errno: Errno) -> Self {
        Self::File(errno.into())
    }
}

impl From<Error> for Making {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

impl Kind {
    fn verb(&self) -> &'static str {
        match self {
            Self::File => "write",
            Self::Folder => "make the folder",
            Self::SymbolicLink(_) | Self::HardLink(_) => "make the link",
            Self::Node(_) => "make the device or pipe",
        }
    }
}

fn refuse<T>(member: &Member, why: &'static str) -> Result<T, Error> {
    Err(Error::Refused { name: member.name[..member.name.len().min(crate::LONGEST_NAME)].to_vec(), why })
}

fn look(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a path is a folder's, or in it.
fn is_in(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn is_no_folder(error: &io::Error) -> bool {
    [Errno::LOOP, Errno::NOTDIR, Errno::XDEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
