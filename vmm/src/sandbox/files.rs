//! Files into a VM and out of it.

#[cfg(test)]
mod hostile_agent_tests;
mod limits;
mod options;
mod owner;
mod single;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Uid;
use vmm_archive::{Holds, Kind, PackOptions, Packer, Place, Reader, Streamed, UnpackOptions, root_name};
use vmm_protocol::{Pack, Totals, Unpack};

use self::limits::Limits;
use self::options::Watched;
pub use self::options::{Copied, CopyOptions, CopyOwner};
use self::owner::owner_here;
pub use self::single::{FolderEntries, Watch};
use super::link::Link;
use super::{CancelToken, Error, Sandbox};
use crate::agent::{AgentClient, AgentError, ByteString, Cancel, ErrorKind, FileInfo, printable};

impl Sandbox {
    /// Copies files and trees from the host into its guest, by the rules of `cp -a`: into `target` if that is a folder,
    /// otherwise one source takes its name. Folders that are there keep their own mode, owner and times; what else is there
    /// is replaced by a rename. A copy that fails leaves a target that was not there, and single files, as they were.
    ///
    /// ```no_run
    /// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
    /// sandbox.copy_in(["project"], "/srv", &vmm::CopyOptions::default())?;
    /// # Ok::<(), vmm::Error>(())
    /// ```
    pub fn copy_in<P: Into<PathBuf>>(
        &self,
        sources: impl IntoIterator<Item = P>,
        target: impl Into<ByteString>,
        options: &CopyOptions,
    ) -> Result<Copied, Error> {
        let sources: Vec<PathBuf> = sources.into_iter().map(Into::into).collect();
        self.explained(copy_in(&self.link.agent()?, &sources, target.into(), options))
    }

    /// Copies files and trees out of its guest, by the same rules. Nothing that the guest sends reaches beyond the target.
    pub fn copy_out<S: Into<ByteString>>(
        &self,
        sources: impl IntoIterator<Item = S>,
        target: impl AsRef<Path>,
        options: &CopyOptions,
    ) -> Result<Copied, Error> {
        let sources = sources.into_iter().map(Into::into).collect();
        self.explained(copy_out(&self.link.agent()?, sources, target.as_ref(), options))
    }

    /// Unpacks a tar archive in its guest: into `target` if that is a folder, or into a new one of that name.
    pub fn unpack(
        &self,
        archive: impl Read,
        target: impl Into<ByteString>,
        options: &CopyOptions,
    ) -> Result<Copied, Error> {
        self.explained(unpack(&self.link.agent()?, archive, target.into(), options))
    }

    /// Packs files and trees of its guest as a tar archive. What was written when it fails is no whole archive.
    pub fn pack<S: Into<ByteString>>(
        &self,
        sources: impl IntoIterator<Item = S>,
        archive: impl Write,
        options: &CopyOptions,
    ) -> Result<Copied, Error> {
        let sources = sources.into_iter().map(Into::into).collect();
        self.explained(pack(&self.link.agent()?, sources, archive, options))
    }

    /// Writes a file in its guest, which is root's and that all may read. One that is there is replaced.
    ///
    /// ```no_run
    /// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
    /// sandbox.write_file("/etc/motd", b"hello\n")?;
    /// assert_eq!(sandbox.read_file("/etc/motd", 1 << 20)?, b"hello\n");
    /// # Ok::<(), vmm::Error>(())
    /// ```
    pub fn write_file(&self, path: impl Into<ByteString>, contents: &[u8]) -> Result<(), Error> {
        self.explained(write_file(&self.link.agent()?, path.into(), contents, None))
    }

    /// Writes a file in its guest with the owner and the mode of another one, such as that which is replaced
    /// ([`Sandbox::stat`]).
    pub fn write_file_as(
        &self,
        path: impl Into<ByteString>,
        contents: &[u8],
        like: &FileInfo,
    ) -> Result<(), Error> {
        self.explained(write_file(&self.link.agent()?, path.into(), contents, Some(like)))
    }

    /// Reads a file of its guest, through links if it is one. One that is longer than `limit` is an error.
    pub fn read_file(&self, path: impl Into<ByteString>, limit: usize) -> Result<Vec<u8>, Error> {
        self.explained(read_file(&self.link.agent()?, &path.into(), limit))
    }

    fn explained<T>(&self, result: Result<T, Failure>) -> Result<T, Error> {
        result.map_err(|failure| explain(&self.link, failure))
    }
}

/// What a failure means: the VM may have ended, or may not be running at all.
fn explain(link: &Link, failure: Failure) -> Error {
    match failure {
        Failure::Host(source) => Error::HostFile { source },
        Failure::Invalid(message) => Error::Invalid { message },
        Failure::Cancelled => Error::Cancelled,
        Failure::TooMuch(message) => Error::CopyLimit { message },
        Failure::Agent(AgentError::Refusal { kind, message, .. }) if is_of_files(kind) => {
            Error::GuestFile { kind, message }
        }
        Failure::Agent(error) => link.explain(error, None),
    }
}

/// Why files were not copied.
#[derive(Debug)]
enum Failure {
    Host(vmm_archive::Error),
    Agent(AgentError),
    Invalid(String),
    TooMuch(String),
    Cancelled,
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

fn is_of_files(kind: ErrorKind) -> bool {
    use ErrorKind::{
        BadArchive, File, FileExists, FolderNotEmpty, IsFolder, NameTooLong, NoSpace, NoSuchFile, NotFolder,
        NotPermitted, ReadOnly, UnfitFile,
    };
    matches!(
        kind,
        BadArchive
            | File
            | FileExists
            | FolderNotEmpty
            | IsFolder
            | NameTooLong
            | NoSpace
            | NoSuchFile
            | NotFolder
            | NotPermitted
            | ReadOnly
            | UnfitFile
    )
}

const OUT: &str = "copy files out of the guest";

/// No file comes with more than this around its contents.
const BESIDE_A_FILE: u64 = 4 << 20;

fn copy_in(
    client: &AgentClient,
    sources: &[PathBuf],
    target: ByteString,
    options: &CopyOptions,
) -> Result<Copied, Failure> {
    // What is missing here is told before the guest is asked for anything.
    for path in sources {
        if let Err(source) = path.symlink_metadata() {
            return Err(Failure::Host(vmm_archive::Error::File { what: "read", path: path.clone(), source }));
        }
    }
    let holds = if sources.len() == 1 { vmm_protocol::Holds::One } else { vmm_protocol::Holds::Several };
    let pack = PackOptions { devices: options.devices, follow: false };
    upload(client, request(target, holds, options), options, |out| {
        let mut packer = Packer::new(out, pack);
        for path in sources {
            packer.add(path, &root_name(path))?;
        }
        let packed = packer.finish()?.1;
        Ok(Totals { entries: packed.entries, sockets: packed.sockets, ..Totals::default() })
    })
}

fn unpack(
    client: &AgentClient,
    mut archive: impl Read,
    target: ByteString,
    options: &CopyOptions,
) -> Result<Copied, Failure> {
    let request = request(target, vmm_protocol::Holds::Anything, options);
    upload(client, request, options, |out| {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match archive.read(&mut buffer) {
                Ok(0) => return Ok(Totals::default()),
                Ok(length) => out.write_all(&buffer[..length]).map_err(stream)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(vmm_archive::Error::File {
                        what: "read",
                        path: "the archive".into(),
                        source,
                    });
                }
            }
        }
    })
}

fn write_file(
    client: &AgentClient,
    path: ByteString,
    contents: &[u8],
    like: Option<&FileInfo>,
) -> Result<(), Failure> {
    let (uid, gid, mode) = like.map_or((0, 0, 0o644), |like| (like.uid, like.gid, like.mode));
    let request = Unpack {
        path,
        holds: vmm_protocol::Holds::File,
        owner: Some(format!("{uid}:{gid}")),
        set_id: like.is_some(),
        devices: false,
    };
    let written = upload(client, request, &CopyOptions::default(), |out| {
        let mut packer = Packer::new(out, PackOptions::default());
        packer.add_bytes(b"file", mode, contents)?;
        packer.finish()?;
        Ok(Totals { entries: 1, ..Totals::default() })
    });
    written.map(drop)
}

fn request(path: ByteString, holds: vmm_protocol::Holds, options: &CopyOptions) -> Unpack {
    let owner = match &options.owner {
        CopyOwner::Keep => None,
        CopyOwner::Usual => (!Uid::effective().is_root()).then(|| "0:0".to_owned()),
        CopyOwner::Named(owner) => Some(owner.clone()),
    };
    let set_id = options.set_id || owner.is_none();
    Unpack { path, holds, owner, set_id, devices: options.devices }
}

/// Sends an archive, and waits until the guest has put everything in its place.
fn upload(
    client: &AgentClient,
    request: Unpack,
    options: &CopyOptions,
    send: impl FnOnce(&mut dyn Write) -> Result<Totals, vmm_archive::Error>,
) -> Result<Copied, Failure> {
    check_path(&request.path)?;
    if options.max_bytes.is_some() || options.max_entries.is_some() {
        return Err(Failure::Invalid("limits are for what is copied out of a guest".to_owned()));
    }
    let mut upload = client.unpack(request, options.patience, owned(options.cancel.as_ref()))?;
    let mut limits = Limits::default();
    let sent = send(&mut Watched { inner: &mut upload, bytes: 0, options, limits: &mut limits });
    let sent = match sent {
        _ if is_cancelled(options) => return Err(Failure::Cancelled),
        Ok(totals) => totals,
        Err(vmm_archive::Error::Stream { .. }) => return Err(upload.refusal().into()),
        Err(error) => {
            upload.give_up(ErrorKind::File, error.line());
            return Err(Failure::Host(error));
        }
    };
    let sockets = sent.sockets;
    match upload.finish(sent) {
        _ if is_cancelled(options) => Err(Failure::Cancelled),
        Ok(totals) => Ok(Copied { sockets, ..copied(&totals) }),
        Err(error) => Err(error.into()),
    }
}

fn copy_out(
    client: &AgentClient,
    sources: Vec<ByteString>,
    target: &Path,
    options: &CopyOptions,
) -> Result<Copied, Failure> {
    let holds = if sources.len() == 1 { Holds::One } else { Holds::Several };
    let owner = owner_here(&options.owner)?;
    // Only what was asked for: a guest could send files of any name into the folder.
    let roots = sources.iter().map(|source| root_name(&path_of(source))).collect();
    let place = Place::find(target, holds).map_err(Failure::Host)?.with_roots(roots);
    let unpack = UnpackOptions {
        owner,
        set_id: options.set_id,
        devices: options.devices,
        max_entries: options.max_entries,
    };
    let limits = Limits::new(options.max_bytes, place.folder().try_clone_to_owned().ok());
    let mut counts = Copied::default();
    let totals = download(client, sources, options, limits, |archive| {
        let unpacked = vmm_archive::unpack(archive, place, unpack)?;
        counts.entries = unpacked.entries;
        counts.set_id_taken = unpacked.set_id_taken;
        counts.attributes_lost = unpacked.attributes_lost;
        if is_cancelled(options) {
            return Ok(());
        }
        unpacked.commit()
    })?;
    Ok(Copied { bytes: totals.bytes, sockets: totals.sockets, ..counts })
}

fn pack(
    client: &AgentClient,
    sources: Vec<ByteString>,
    mut archive: impl Write,
    options: &CopyOptions,
) -> Result<Copied, Failure> {
    if options.max_entries.is_some() {
        let message =
            "an archive that is packed is not looked into: its entries cannot be limited".to_owned();
        return Err(Failure::Invalid(message));
    }
    let limits = Limits::new(options.max_bytes, None);
    let totals = download(client, sources, options, limits, |pieces| {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let length = pieces.read(&mut buffer).map_err(stream)?;
            let written = if length == 0 { archive.flush() } else { archive.write_all(&buffer[..length]) };
            written.map_err(|source| vmm_archive::Error::File {
                what: "write",
                path: "the archive".into(),
                source,
            })?;
            if length == 0 {
                return Ok(());
            }
        }
    })?;
    Ok(copied(&totals))
}

fn read_file(client: &AgentClient, path: &ByteString, limit: usize) -> Result<Vec<u8>, Failure> {
    let unfit = |why| vmm_archive::Error::Unfit { path: path_of(path), why };
    let mut contents = Vec::new();
    let request = Pack { paths: vec![path.clone()], follow: true, devices: false };
    // What is said of the file beside its contents, and what fills its last blocks.
    let limits = Limits::new(Some((limit as u64).saturating_add(BESIDE_A_FILE)), None);
    let read = receive(client, request, &CopyOptions::default(), limits, |archive| {
        let mut reader = Reader::new(Streamed(archive));
        let member = reader.next()?.filter(|member| member.kind == Kind::File);
        let Some(member) = member else { return Err(unfit("is no file")) };
        if member.length > limit as u64 {
            return Err(unfit("is longer than it may be"));
        }
        let mut buffer = vec![0; 64 * 1024];
        for piece in &member.pieces {
            let at = usize::try_from(piece.at).unwrap_or(usize::MAX);
            contents.resize(at, 0);
            let mut left = usize::try_from(piece.length).unwrap_or(usize::MAX);
            while left > 0 {
                let most = left.min(buffer.len());
                let length = reader.read(&mut buffer[..most])?;
                if length == 0 {
                    return Err(unfit("came only in part"));
                }
                contents.extend_from_slice(&buffer[..length]);
                left -= length;
            }
        }
        contents.resize(usize::try_from(member.length).unwrap_or(usize::MAX), 0);
        if reader.next()?.is_some() {
            return Err(unfit("came with others"));
        }
        reader.finish().map(drop)
    });
    match read {
        Ok(_) => Ok(contents),
        // Nothing here is a file of the host's.
        Err(Failure::Host(error)) => {
            let kind = match error {
                vmm_archive::Error::Unfit { .. } => ErrorKind::UnfitFile,
                _ => ErrorKind::BadArchive,
            };
            Err(AgentError::Refusal { what: "read a file", kind, message: printable(&error.line()) }.into())
        }
        Err(failure) => Err(failure),
    }
}

fn download(
    client: &AgentClient,
    sources: Vec<ByteString>,
    options: &CopyOptions,
    limits: Limits,
    take: impl FnOnce(&mut dyn Read) -> Result<(), vmm_archive::Error>,
) -> Result<Totals, Failure> {
    sources.iter().try_for_each(check_path)?;
    receive(client, Pack { paths: sources, follow: false, devices: options.devices }, options, limits, take)
}

/// Receives an archive, which is taken to its end.
fn receive(
    client: &AgentClient,
    request: Pack,
    options: &CopyOptions,
    mut limits: Limits,
    take: impl FnOnce(&mut dyn Read) -> Result<(), vmm_archive::Error>,
) -> Result<Totals, Failure> {
    let mut archive = client.pack(request, options.patience, owned(options.cancel.as_ref()))?;
    let taken = take(&mut Watched { inner: &mut archive, bytes: 0, options, limits: &mut limits });
    if let Some(message) = limits.exceeded() {
        return Err(Failure::TooMuch(message));
    }
    match taken {
        _ if is_cancelled(options) => Err(Failure::Cancelled),
        Err(error @ vmm_archive::Error::TooMany { .. }) => Err(Failure::TooMuch(error.to_string())),
        Ok(()) => Ok(archive.totals().cloned().unwrap_or_default()),
        Err(vmm_archive::Error::Stream { source }) => Err(AgentError::from_stream(OUT, source).into()),
        Err(error) => Err(Failure::Host(error)),
    }
}

fn stream(source: io::Error) -> vmm_archive::Error {
    vmm_archive::Error::Stream { source }
}

fn owned(cancel: Option<&CancelToken>) -> Option<Arc<dyn Cancel>> {
    cancel.cloned().map(|token| Arc::new(token) as Arc<dyn Cancel>)
}

fn is_cancelled(options: &CopyOptions) -> bool {
    options.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
}

fn check_path(path: &ByteString) -> Result<(), Failure> {
    if path.as_bytes().contains(&0) {
        return Err(Failure::Invalid("a path has a zero byte".to_owned()));
    }
    Ok(())
}

fn path_of(path: &ByteString) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn copied(totals: &Totals) -> Copied {
    let Totals { entries, bytes, sockets, set_id_taken, attributes_lost, .. } = *totals;
    Copied { entries, bytes, sockets, set_id_taken, attributes_lost }
}
