//! Packing trees of files into an archive.

mod header;
mod source;

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use vmm_sys::beneath::{device_numbers, open_folder};

use self::header::Header;
use self::source::{attributes, pieces};
use crate::beneath::shown;
use crate::error::{Error, trying};
use crate::header::{BLOCK, Fields, padding};
use crate::member::{Piece, Time};
use crate::sparse::map_text;
use crate::{LONGEST_NAME, LONGEST_NOTE};

/// What is packed beside files, folders and links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// Devices and pipes, which are refused otherwise. Sockets are left out then: an archive has no words for them.
    pub devices: bool,
    /// A root that is a symbolic link stands for what it leads to.
    pub follow: bool,
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Members.
    pub entries: u64,
    /// Sockets that were left out.
    pub sockets: u64,
}

/// The name that a path's file or tree has in an archive: its last one, or `.` where it has none.
#[must_use]
pub fn root_name(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    // `file_name` takes `a/.` for `a`.
    if bytes.ends_with(b"/.") {
        return b".".to_vec();
    }
    path.file_name().map_or_else(|| b".".to_vec(), |name| name.as_bytes().to_vec())
}

/// How much of a file is moved at once. A file that is no longer is read before its header is written, which then says
/// how long it really is: what the kernel makes up tells no length or a wrong one.
const BUFFER: usize = 128 * 1024;

/// Of a path that is too long so many bytes are shown.
const SHOWN: usize = 200;

/// A file that tells no length is not longer than this.
const LONGEST_MADE_UP: u64 = 16 << 20;

/// Packs trees of files.
pub struct Packer<W> {
    out: W,
    options: PackOptions,
    /// The names of files that have several, by device and number.
    links: HashMap<(u64, u64), Vec<u8>>,
    packed: Packed,
    buffer: Vec<u8>,
}

/// What a member is, where it lies and what it is called in the archive.
struct Entry<'a> {
    folder: BorrowedFd<'a>,
    /// What it is called there.
    name: &'a [u8],
    /// And in the archive.
    archived: &'a [u8],
    shown: PathBuf,
    stat: Stat,
    follow: bool,
}

/// A folder whose entries are being packed.
struct Level {
    names: std::vec::IntoIter<CString>,
    /// How long its path is beneath the root.
    length: usize,
}

impl<W: Write> Packer<W> {
    /// Packs into a stream.
    pub fn new(out: W, options: PackOptions) -> Self {
        let buffer = Vec::with_capacity(BUFFER);
        Self { out, options, links: HashMap::new(), packed: Packed::default(), buffer }
    }

    /// Packs a file or a tree, under this name.
    pub fn add(&mut self, path: &Path, archived: &[u8]) -> Result<(), Error> {
        let follow = if self.options.follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = statat(CWD, path, follow).map_err(trying("read", path))?;
        let name = path.as_os_str().as_bytes();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let follow = self.options.follow;
            return self.leaf(&Entry { folder: CWD, name, archived, shown: path.to_owned(), stat, follow });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(trying("read the folder", path))?;
        self.tree(&root, path, archived)
    }

    /// Packs bytes as a file.
    pub fn add_bytes(&mut self, archived: &[u8], mode: u32, bytes: &[u8]) -> Result<(), Error> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let header = Header {
            name: archived,
            kind: b'0',
            mode,
            size: bytes.len() as u64,
            modified: Time {
                seconds: i64::try_from(now.as_secs()).unwrap_or(0),
                nanoseconds: now.subsec_nanos(),
            },
            ..Header::default()
        };
        self.header(&header, Path::new(std::ffi::OsStr::from_bytes(archived)))?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<(W, Packed), Error> {
        self.write(&[0; 2 * BLOCK])?;
        Ok((self.out, self.packed))
    }

    fn tree(&mut self, root: &OwnedFd, path: &Path, archived: &[u8]) -> Result<(), Error> {
        let mut beneath = Vec::new();
        let names = self.folder(root.as_fd(), archived, path)?;
        let mut levels = vec![Level { names, length: 0 }];
        let mut folder: Option<OwnedFd> = None;
        while let Some(level) = levels.last_mut() {
            beneath.truncate(level.length);
            let Some(name) = level.names.next() else {
                levels.pop();
                folder = None;
                continue;
            };
            // Only one folder is held open, however deep the tree is.
            let opened = match folder.take() {
                Some(opened) => opened,
                None => {
                    open_folder(root, &beneath).map_err(trying("read the folder", &shown(path, &beneath)))?
                }
            };
            let in_archive = |beneath: &[u8]| [archived, b"/", beneath].concat();
            if !beneath.is_empty() {
                beneath.push(b'/');
            }
            beneath.extend_from_slice(name.to_bytes());
            let shown = shown(path, &beneath);
            let stat = match statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It was removed meanwhile.
                Err(Errno::NOENT) => {
                    folder = Some(opened);
                    continue;
                }
                Err(errno) => return Err(trying("read", &shown)(errno)),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let inner =
                    open_folder(&opened, name.to_bytes()).map_err(trying("read the folder", &shown))?;
                let names = self.folder(inner.as_fd(), &in_archive(&beneath), &shown)?;
                levels.push(Level { names, length: beneath.len() });
                folder = Some(inner);
            } else {
                let archived = in_archive(&beneath);
                self.leaf(&Entry {
                    folder: opened.as_fd(),
                    name: name.to_bytes(),
                    archived: &archived,
                    shown,
                    stat,
                    follow: false,
                })?;
                folder = Some(opened);
            }
        }
        Ok(())
    }

    /// Packs a folder itself, and says what is in it.
    fn folder(
        &mut self,
        folder: BorrowedFd<'_>,
        archived: &[u8],
        path: &Path,
    ) -> Result<std::vec::IntoIter<CString>, Error> {
        const WHAT: &str = "read the folder";
        let stat = fstat(folder).map_err(trying(WHAT, path))?;
        let name = [archived, b"/"].concat();
        let attributes = attributes(folder).map_err(trying(WHAT, path))?;
        self.header(&Header { name: &name, kind: b'5', attributes, ..Header::of(&stat) }, path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(trying(WHAT, path))? {
            let entry = entry.map_err(trying(WHAT, path))?;
            if ![c".", c".."].contains(&entry.file_name()) {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        Ok(names.into_iter())
    }

    /// Packs what is no folder.
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let Entry { stat, archived, shown: path, .. } = entry;
        let known = (stat.st_dev, stat.st_ino);
        if let Some(earlier) = self.links.get(&known).cloned() {
            let header = Header { name: archived, kind: b'1', link: &earlier, ..Header::of(stat) };
            return self.header(&header, path);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let unfit = |why| Err(Error::Unfit { path: path.clone(), why });
        match kind {
            FileType::RegularFile => self.file(entry)?,
            FileType::Symlink => {
                let link = readlinkat(entry.folder, entry.name, Vec::new());
                let link = link.map_err(trying("read the link", path))?;
                let header = Header { name: archived, kind: b'2', link: link.to_bytes(), ..Header::of(stat) };
                self.header(&header, path)?;
            }
            FileType::Socket if self.options.devices => {
                self.packed.sockets += 1;
                return Ok(());
            }
            FileType::Socket => return unfit("is a socket, which cannot be copied"),
            _ if !self.options.devices => {
                return unfit("is a device or a pipe, which is copied only if asked for (--devices)");
            }
            kind => {
                let kind = match kind {
                    FileType::CharacterDevice => b'3',
                    FileType::BlockDevice => b'4',
                    FileType::Fifo => b'6',
                    _ => return unfit("is of a kind that is not known"),
                };
                let device = if kind == b'6' { (0, 0) } else { device_numbers(stat.st_rdev) };
                self.header(&Header { name: archived, kind, device, ..Header::of(stat) }, path)?;
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert(known, archived.to_vec());
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        let Entry { archived, shown: path, .. } = entry;
        let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if !entry.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let opened = openat(entry.folder, entry.name, flags, Mode::empty());
        let file = File::from(opened.map_err(trying("read", path))?);
        let stat = fstat(&file).map_err(trying("read", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Unfit { path: path.clone(), why: "became something else while it was read" });
        }
        let attributes = attributes(file.as_fd()).map_err(trying("read", path))?;
        let header = Header { name: archived, kind: b'0', attributes, ..Header::of(&stat) };
        let told = u64::try_from(stat.st_size).unwrap_or(0);
        if told <= BUFFER as u64 {
            let mut bytes = std::mem::take(&mut self.buffer);
            bytes.clear();
            let read = (&file).take(LONGEST_MADE_UP + 1).read_to_end(&mut bytes).map_err(|error| {
                // What the kernel makes up may have nothing to say now.
                if error.kind() == io::ErrorKind::WouldBlock {
                    io::ErrorKind::InvalidInput.into()
                } else {
                    error
                }
            });
            read.map_err(trying("read", path))?;
            if bytes.len() as u64 > LONGEST_MADE_UP {
                return Err(Error::Unfit { path: path.clone(), why: "does not tell how long it is" });
            }
            let written = self.contents(header, path, bytes.len() as u64, &stat, &file, Some(&bytes));
            bytes.shrink_to(BUFFER);
            self.buffer = bytes;
            written?;
        } else {
            self.contents(header, path, told, &stat, &file, None)?;
        }
        // Logs only grow: what was there when it was opened is whole. Anything else that was written may be in it by half.
        let now = fstat(&file).map_err(trying("read", path))?;
        let written = (stat.st_mtime, stat.st_mtime_nsec) != (now.st_mtime, now.st_mtime_nsec);
        if written && now.st_size <= stat.st_size {
            return Err(Error::Unfit { path: path.clone(), why: "was written to while it was read" });
        }
        Ok(())
    }

    /// Writes a file's header and its data, from memory if it is there.
    fn contents(
        &mut self,
        mut header: Header<'_>,
        path: &Path,
        length: u64,
        stat: &Stat,
        file: &File,
        bytes: Option<&[u8]>,
    ) -> Result<(), Error> {
        let mut pieces = pieces(file, length, stat);
        let is_zero = |from: u64, to: u64| {
            let range = usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
            bytes
                .is_none_or(|bytes| bytes.get(range).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)))
        };
        let mut at = 0;
        let holes = pieces.iter().chain([&Piece { at: length, length: 0 }]).all(|piece| {
            let hole = (at, piece.at);
            at = piece.at + piece.length;
            is_zero(hole.0, hole.1)
        });
        let whole = Piece { at: 0, length };
        if !holes {
            pieces = vec![whole];
        }
        let data: u64 = pieces.iter().map(|piece| piece.length).sum();
        if data == length {
            pieces = vec![whole];
        } else {
            // As GNU tar does, for those that know nothing of it.
            header.sparse = Some(length);
            let (_, leaf) = crate::beneath::split(header.name);
            header.sparse_name = [b"GNUSparseFile.0/", leaf].concat();
        }
        let map = if header.sparse.is_some() { map_text(&pieces, length) } else { Vec::new() };
        let stored = data + map.len() as u64;
        header.size = stored;
        self.header(&header, path)?;
        self.write(&map)?;
        for piece in pieces {
            match bytes {
                Some(bytes) => {
                    let from = usize::try_from(piece.at).unwrap_or(usize::MAX);
                    let to = from.saturating_add(usize::try_from(piece.length).unwrap_or(usize::MAX));
                    self.write(bytes.get(from..to).unwrap_or_default())?;
                }
                None => self.copy(file, piece, path)?,
            }
        }
        self.pad(stored)
    }

    fn copy(&mut self, file: &File, piece: Piece, path: &Path) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        let (mut at, end) = (piece.at, piece.at + piece.length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
            match file.read_at(&mut buffer[..most], at) {
                Ok(0) => {
                    return Err(Error::Unfit { path: path.to_owned(), why: "was cut while it was read" });
                }
                Ok(length) => {
                    self.write(&buffer[..length])?;
                    at += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(trying("read", path)(error)),
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    fn header(&mut self, header: &Header<'_>, path: &Path) -> Result<(), Error> {
        let unfit = |why| Err(Error::Unfit { path: path.to_owned(), why });
        if header.name.len() > LONGEST_NAME || header.link.len() > LONGEST_NAME {
            // The whole of it would hide what is wrong.
            let shown = path.as_os_str().as_bytes();
            let shown = OsStr::from_bytes(&shown[..shown.len().min(SHOWN)]);
            return Err(Error::Unfit {
                path: Path::new(shown).join("…"),
                why: "has a path that is too long",
            });
        }
        let note = header.note();
        if note.len() as u64 > LONGEST_NOTE {
            return unfit("has too many extended attributes");
        }
        if !note.is_empty() {
            let (_, leaf) = crate::beneath::split(header.name.strip_suffix(b"/").unwrap_or(header.name));
            let name = [b"PaxHeaders/", leaf].concat();
            let size = note.len() as u64;
            self.write(
                &Fields { name: &name, kind: b'x', mode: 0o644, size, ..Fields::default() }.to_block(),
            )?;
            self.write(&note)?;
            self.pad(size)?;
        }
        self.write(&header.fields().to_block())?;
        self.packed.entries += 1;
        Ok(())
    }

    fn pad(&mut self, length: u64) -> Result<(), Error> {
        let padding = usize::try_from(padding(length)).unwrap_or(0);
        self.write(&[0; BLOCK][..padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::Stream { source })
    }
}
