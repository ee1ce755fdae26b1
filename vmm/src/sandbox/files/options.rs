//! How files are copied, and what was.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::CancelToken;
use super::limits::Limits;
use crate::agent::PATIENCE;

/// Whose files become that are copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CopyOwner {
    /// Whose they were if we are root; otherwise root's in the guest, ours on the host.
    #[default]
    Usual,
    /// Whose they were, by number.
    Keep,
    /// `user`, `user:group`, `uid` or `uid:gid` of the side that they are copied to.
    Named(String),
}

/// How files are copied.
#[derive(Clone)]
pub struct CopyOptions {
    pub(super) owner: CopyOwner,
    pub(super) set_id: bool,
    pub(super) devices: bool,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_entries: Option<u64>,
    pub(super) patience: Duration,
    pub(super) cancel: Option<CancelToken>,
    pub(super) observer: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            owner: CopyOwner::default(),
            set_id: false,
            devices: false,
            max_bytes: None,
            max_entries: None,
            patience: PATIENCE,
            cancel: None,
            observer: None,
        }
    }
}

impl CopyOptions {
    /// Whose the copies become.
    pub fn owner(mut self, owner: CopyOwner) -> Self {
        self.owner = owner;
        self
    }

    /// Keeps set-user-id and set-group-id bits and capabilities. They are taken otherwise, except from what is copied into a
    /// guest and keeps its owner.
    pub fn set_id(mut self, set_id: bool) -> Self {
        self.set_id = set_id;
        self
    }

    /// Copies devices and pipes, which are refused otherwise.
    pub fn devices(mut self, devices: bool) -> Self {
        self.devices = devices;
        self
    }

    /// Ends a copy out of a guest that is more than so many bytes, with all that is said of files beside their contents. In
    /// any case one ends that would leave the target's file system with less than a twentieth of its space, or 1 GiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Ends a copy out of a guest that is more than so many files and folders.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries);
        self
    }

    /// How long the guest may neither take nor bring anything, 2 minutes where nothing is said. A guest that moves less
    /// than 1 KiB a second is taken for one that does nothing at all.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Cancelling this token ends the copy, and leaves the target as it was.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = Some(token.clone());
        self
    }

    /// Is told again and again how many bytes have gone through.
    pub fn on_progress(mut self, observer: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, set_id, devices, .. } = self;
        f.debug_struct("CopyOptions")
            .field("owner", owner)
            .field("set_id", set_id)
            .field("devices", devices)
            .finish_non_exhaustive()
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, folders, links and others.
    pub entries: u64,
    /// Bytes that went through, with all that is said of files beside their contents.
    pub bytes: u64,
    /// Sockets that were left out.
    pub sockets: u64,
    /// Files whose set-user-id and set-group-id bits were taken.
    pub set_id_taken: u64,
    /// Extended attributes that the target's file system does not have.
    pub attributes_lost: u64,
}

/// Bytes on their way, of which somebody is told, and which may become too many.
pub(super) struct Watched<'a, T> {
    pub inner: &'a mut T,
    pub bytes: u64,
    pub options: &'a CopyOptions,
    pub limits: &'a mut Limits,
}

impl<T> Watched<'_, T> {
    fn tell(&mut self, length: usize) -> io::Result<()> {
        self.bytes += length as u64;
        if let Some(observer) = &self.options.observer {
            observer(self.bytes);
        }
        self.limits.check(self.bytes)
    }
}

impl<T: Read> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.tell(length)?;
        Ok(length)
    }
}

impl<T: Write> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.tell(length)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
