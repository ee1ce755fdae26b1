//! Single files and folders: a worker's work.

mod remove;
mod watch;

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vmm_protocol::{
    Answer, ErrorKind, FileInfo, FileKind, FileRequest, FolderEntry, PieceWriter, Reply, Totals,
};

use crate::refusal::Refusal;
use crate::worker::{PAGE, Stop, answer, path_of, tell};

/// What a folder is made with.
const FOLDER_MODE: u32 = 0o755;

/// Does what a client asks. `None`: all is said already.
pub(crate) fn serve(client: &File, request: &FileRequest) -> Result<Option<Reply>, Stop> {
    match request {
        FileRequest::Stat { path, follow } => Ok(Some(Reply::File(stat(&path_of(path)?, *follow)?))),
        FileRequest::List { path } => list(client, &path_of(path)?),
        FileRequest::Read { path, offset, length } => read(client, &path_of(path)?, *offset, *length),
        FileRequest::Remove { path, tree } => remove::remove(client, &path_of(path)?, *tree),
        FileRequest::MakeFolder { path, parents, mode } => {
            make_folder(&path_of(path)?, *parents, *mode)?;
            Ok(Some(Reply::Done))
        }
        FileRequest::Rename { from, to } => {
            let (from, to) = (path_of(from)?, path_of(to)?);
            fs::rename(&from, &to)
                .map_err(|error| refusal(&format!("rename {} to", from.display()), &to, &error))?;
            Ok(Some(Reply::Done))
        }
        FileRequest::Watch { path, recursive } => watch::watch(client, &path_of(path)?, *recursive),
    }
}

fn stat(path: &Path, follow: bool) -> Result<FileInfo, Refusal> {
    let metadata = if follow { path.metadata() } else { path.symlink_metadata() };
    let metadata = metadata.map_err(|error| refusal("look at", path, &error))?;
    Ok(info(path, &metadata))
}

fn info(path: &Path, metadata: &Metadata) -> FileInfo {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() => FileKind::File,
        () if kind.is_dir() => FileKind::Folder,
        () if kind.is_symlink() => FileKind::SymbolicLink,
        () if kind.is_block_device() => FileKind::BlockDevice,
        () if kind.is_char_device() => FileKind::CharacterDevice,
        () if kind.is_fifo() => FileKind::Pipe,
        () if kind.is_socket() => FileKind::Socket,
        () => FileKind::Other,
    };
    // One that is something else by now leads nowhere.
    let leads_to = (kind == FileKind::SymbolicLink).then(|| fs::read_link(path).ok()).flatten();
    FileInfo {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        length: metadata.len(),
        links: metadata.nlink(),
        modified: metadata.mtime(),
        modified_ns: metadata.mtime_nsec().try_into().unwrap_or(0),
        inode: metadata.ino(),
        leads_to: leads_to.map(|path| path.as_os_str().into()),
    }
}

fn list(client: &File, path: &Path) -> Result<Option<Reply>, Stop> {
    let failed = |error: io::Error| refusal("list", path, &error);
    let mut page = Vec::new();
    let mut size = 0;
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // One that is gone by now is not in the folder.
        let Ok(metadata) = entry.metadata() else { continue };
        let info = info(&entry.path(), &metadata);
        let name = entry.file_name();
        size += 32 + name.len() + info.leads_to.as_ref().map_or(0, |path| path.as_bytes().len());
        page.push(FolderEntry { name: name.into(), info });
        if size >= PAGE {
            tell(client, Reply::Entries(std::mem::take(&mut page)))?;
            size = 0;
        }
    }
    if !page.is_empty() {
        tell(client, Reply::Entries(page))?;
    }
    Ok(Some(Reply::Done))
}

fn read(client: &File, path: &Path, offset: u64, length: u64) -> Result<Option<Reply>, Stop> {
    /// How much is read at once.
    const BUFFER: usize = 128 * 1024;
    let failed = |error: io::Error| refusal("read", path, &error);
    // A pipe must not hold us up, nor a terminal become ours.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(Errno::ISDIR.into()).into());
    }
    if !metadata.is_file() {
        let message = format!("{} is neither a file nor a folder", path.display());
        return Err(Refusal::new(ErrorKind::UnfitFile, message).into());
    }
    answer(client, &Answer::Ok(Reply::Contents(info(path, &metadata)))).map_err(Stop::Client)?;
    let mut pieces = PieceWriter::new(client);
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut left) = (offset, length);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER);
        match file.read_at(&mut buffer[..most], at) {
            Ok(0) => break,
            Ok(length) => {
                io::Write::write_all(&mut pieces, &buffer[..length]).map_err(Stop::Client)?;
                at = at.saturating_add(length as u64);
                left -= length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let Refusal { kind, message } = failed(error);
                let told = pieces.fail(kind, message);
                return told.map(|_| None).map_err(|error| Stop::Client(io::Error::other(error)));
            }
        }
    }
    let sent = pieces.finish(Totals { entries: 1, ..Totals::default() });
    sent.map(|_| None).map_err(|error| Stop::Client(io::Error::other(error)))
}

fn make_folder(path: &Path, parents: bool, mode: Option<u32>) -> Result<(), Refusal> {
    // The mode is as it was asked for.
    rustix::process::umask(Mode::empty());
    let made = DirBuilder::new().recursive(parents).mode(mode.unwrap_or(FOLDER_MODE) & 0o7777).create(path);
    made.map_err(|error| refusal("make the folder", path, &error))
}

/// Why something was not done to a file, in the protocol's words.
fn refusal(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let kind = match errno {
        Some(Errno::NOENT) => ErrorKind::NoSuchFile,
        Some(Errno::ACCESS | Errno::PERM) => ErrorKind::NotPermitted,
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
        Some(Errno::ISDIR) => ErrorKind::IsFolder,
        Some(Errno::NOTDIR) => ErrorKind::NotFolder,
        Some(Errno::EXIST) => ErrorKind::FileExists,
        Some(Errno::NOTEMPTY) => ErrorKind::FolderNotEmpty,
        Some(Errno::NAMETOOLONG) => ErrorKind::NameTooLong,
        Some(Errno::ROFS) => ErrorKind::ReadOnly,
        Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE) => ErrorKind::Resources,
        _ => ErrorKind::File,
    };
    let cause = error.to_string();
    let cause = cause.split(" (os error").next().unwrap_or_default();
    Refusal::new(kind, format!("cannot {what} {}: {cause}", path.display()))
}
