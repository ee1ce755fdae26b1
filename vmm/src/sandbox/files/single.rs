//! Single files and folders of a VM: looked at, removed, made, renamed, watched.

use std::sync::Arc;
use std::time::Duration;
use std::vec;

use super::{CancelToken, Error, Failure, Sandbox, check_path, owned};
use crate::agent::{AgentError, ByteString, Change, FileInfo, FolderEntry, GuestProcess, Listing, Watching};
use crate::sandbox::link::Link;

impl Sandbox {
    /// What a file of its guest is; of a symbolic link, what that leads to.
    ///
    /// ```no_run
    /// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
    /// let info = sandbox.stat("/etc/passwd")?;
    /// assert_eq!((info.kind, info.mode), (vmm::FileKind::File, 0o644));
    /// # Ok::<(), vmm::Error>(())
    /// ```
    pub fn stat(&self, path: impl Into<ByteString>) -> Result<FileInfo, Error> {
        self.stat_as(&path.into(), true)
    }

    /// What a file of its guest is; of a symbolic link the link itself.
    pub fn stat_link(&self, path: impl Into<ByteString>) -> Result<FileInfo, Error> {
        self.stat_as(&path.into(), false)
    }

    fn stat_as(&self, path: &ByteString, follow: bool) -> Result<FileInfo, Error> {
        self.of_file(path, None, |path| self.link.agent()?.stat(path, follow).map_err(Stop::Agent))
    }

    /// What is in a folder of its guest, in no order. It comes as it is asked for, however much there is.
    ///
    /// ```no_run
    /// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
    /// for entry in sandbox.list_folder("/etc", None)? {
    ///     let entry = entry?;
    ///     println!("{} {}", entry.name.to_string_lossy(), entry.info.length);
    /// }
    /// # Ok::<(), vmm::Error>(())
    /// ```
    pub fn list_folder(
        &self,
        path: impl Into<ByteString>,
        cancel: Option<&CancelToken>,
    ) -> Result<FolderEntries, Error> {
        let listing = self.of_file(&path.into(), cancel, |path| {
            self.link.agent()?.list(path, owned(cancel)).map_err(Stop::Agent)
        })?;
        let (link, cancel) = (self.link.clone(), cancel.cloned());
        Ok(FolderEntries { listing: Some(listing), page: Vec::new().into_iter(), link, cancel })
    }

    /// Reads a part of a file of its guest, through links if it is one: from `offset`, `length` bytes or as many as there are.
    pub fn read_part(
        &self,
        path: impl Into<ByteString>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        self.of_file(&path.into(), None, |path| {
            Ok(self.link.agent()?.read(path, offset, length).map_err(Stop::Agent)?.1)
        })
    }

    /// Removes a file of its guest, and of a symbolic link the link itself. A folder is refused.
    pub fn remove_file(&self, path: impl Into<ByteString>) -> Result<(), Error> {
        self.of_file(&path.into(), None, |path| {
            self.link.agent()?.remove(path, false, None).map_err(Stop::Agent)
        })
    }

    /// Removes a folder of its guest with all that is in it, or a file. What other file systems have mounted there is left
    /// alone, and ends it with an error.
    pub fn remove_tree(
        &self,
        path: impl Into<ByteString>,
        cancel: Option<&CancelToken>,
    ) -> Result<(), Error> {
        self.of_file(&path.into(), cancel, |path| {
            self.link.agent()?.remove(path, true, owned(cancel)).map_err(Stop::Agent)
        })
    }

    /// Makes a folder in its guest, which is root's, with mode 0755. One that is there is an error.
    pub fn make_folder(&self, path: impl Into<ByteString>) -> Result<(), Error> {
        self.make_folder_as(&path.into(), false)
    }

    /// Makes a folder in its guest, and those that it is in, as far as they are not there.
    pub fn make_folders(&self, path: impl Into<ByteString>) -> Result<(), Error> {
        self.make_folder_as(&path.into(), true)
    }

    fn make_folder_as(&self, path: &ByteString, parents: bool) -> Result<(), Error> {
        self.of_file(path, None, |path| {
            self.link.agent()?.make_folder(path, parents, None).map_err(Stop::Agent)
        })
    }

    /// Gives a file or folder of its guest another name. A file that has the name already is replaced.
    pub fn rename_file(&self, from: impl Into<ByteString>, to: impl Into<ByteString>) -> Result<(), Error> {
        let to = to.into();
        self.of_file(&to, None, |_| Ok(()))?;
        self.of_file(&from.into(), None, |from| self.link.agent()?.rename(from, to).map_err(Stop::Agent))
    }

    /// Watches a folder of its guest, or a file: every change from the return of this on is told, until `cancel`, or until
    /// what is watched is gone. With `recursive` the folders in it too, and those that come later.
    ///
    /// ```no_run
    /// # let sandbox = vmm::Sandbox::builder("alpine").start()?;
    /// for change in sandbox.watch("/srv", true, None)? {
    ///     let change = change?;
    ///     println!("{:?} {}", change.what, change.path.to_string_lossy());
    /// }
    /// # Ok::<(), vmm::Error>(())
    /// ```
    pub fn watch(
        &self,
        path: impl Into<ByteString>,
        recursive: bool,
        cancel: Option<&CancelToken>,
    ) -> Result<Watch, Error> {
        let watching = self.of_file(&path.into(), cancel, |path| {
            self.link.agent()?.watch(path, recursive, owned(cancel)).map_err(Stop::Agent)
        })?;
        let (link, cancel) = (self.link.clone(), cancel.cloned());
        Ok(Watch { watching: Some(watching), page: Vec::new().into_iter(), link, cancel })
    }

    /// All processes of its guest, whoever started them. For `over` it is looked at how busy they are, 10 s at most.
    pub fn guest_processes(&self, over: Duration) -> Result<Vec<GuestProcess>, Error> {
        self.link.agent()?.guest_processes(over).map_err(|error| self.link.explain(error, None))
    }

    /// Asks for something of a file.
    fn of_file<T>(
        &self,
        path: &ByteString,
        cancel: Option<&CancelToken>,
        ask: impl FnOnce(ByteString) -> Result<T, Stop>,
    ) -> Result<T, Error> {
        let checked = check_path(path).map_err(Stop::Path);
        match checked.and_then(|()| ask(path.clone())) {
            Ok(told) => Ok(told),
            Err(Stop::Vm(error)) => Err(error),
            Err(Stop::Path(failure)) => self.explained(Err(failure)),
            Err(Stop::Agent(error)) => Err(explain(&self.link, cancel, error)),
        }
    }
}

/// Why something was not done with a file.
enum Stop {
    Path(Failure),
    Vm(Error),
    Agent(AgentError),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Vm(error)
    }
}

fn explain(link: &Link, cancel: Option<&CancelToken>, error: AgentError) -> Error {
    if cancel.is_some_and(CancelToken::is_cancelled) {
        return Error::Cancelled;
    }
    super::explain(link, Failure::Agent(error))
}

/// What is in a folder of a guest.
#[derive(Debug)]
pub struct FolderEntries {
    listing: Option<Listing>,
    page: vec::IntoIter<FolderEntry>,
    link: Arc<Link>,
    cancel: Option<CancelToken>,
}

impl Iterator for FolderEntries {
    type Item = Result<FolderEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { listing, page, link, cancel } = self;
        next(page, listing, |listing| {
            listing.next_page().map_err(|error| explain(link, cancel.as_ref(), error))
        })
    }
}

/// What changes in a folder of a guest. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    watching: Option<Watching>,
    page: vec::IntoIter<Change>,
    link: Arc<Link>,
    cancel: Option<CancelToken>,
}

impl Iterator for Watch {
    type Item = Result<Change, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { watching, page, link, cancel } = self;
        next(page, watching, |watching| {
            watching.next_page().map_err(|error| explain(link, cancel.as_ref(), error))
        })
    }
}

/// The next of what comes in pages; nothing more follows an error.
fn next<T, S>(
    page: &mut vec::IntoIter<T>,
    source: &mut Option<S>,
    next_page: impl FnOnce(&mut S) -> Result<Option<Vec<T>>, Error>,
) -> Option<Result<T, Error>> {
    if let Some(next) = page.next() {
        return Some(Ok(next));
    }
    match next_page(source.as_mut()?) {
        Ok(Some(more)) => {
            *page = more.into_iter();
            page.next().map(Ok)
        }
        Ok(None) => {
            *source = None;
            None
        }
        Err(error) => {
            *source = None;
            Some(Err(error))
        }
    }
}
