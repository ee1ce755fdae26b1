//! How much a guest may send: what its user says, and what the host has room for.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{StatVfs, fstatvfs};

/// Of a file system this part stays free, …
const RESERVE: u64 = 20;

/// … or so many bytes where that is less.
const MOST_RESERVED: u64 = 1 << 30;

/// It is looked at what is free whenever so much has come: some thousand empty folders.
const STRIDE: u64 = 1 << 20;

/// What a copy may come to. None of what goes into a guest, whose disk has an end of its own.
#[derive(Debug, Default)]
pub(super) struct Limits {
    max_bytes: Option<u64>,
    /// The folder that is filled.
    folder: Option<OwnedFd>,
    look_at: u64,
    exceeded: Option<String>,
}

impl Limits {
    pub(super) fn new(max_bytes: Option<u64>, folder: Option<OwnedFd>) -> Self {
        Self { max_bytes, folder, look_at: 0, exceeded: None }
    }

    /// Which was exceeded.
    pub(super) fn exceeded(&mut self) -> Option<String> {
        self.exceeded.take()
    }

    /// An error if so many bytes are too many.
    pub(super) fn check(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(most) = self.max_bytes.filter(|most| bytes > *most) {
            return self.exceed(format!("it is more than the {most} bytes that it may be"));
        }
        if bytes < self.look_at {
            return Ok(());
        }
        self.look_at = bytes.saturating_add(STRIDE);
        match self.folder.as_ref().map(fstatvfs) {
            Some(Ok(now)) if is_full(&now) => self.exceed(
                "it would fill the disk: a twentieth of the target's file system, or 1 GiB, stays free"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    fn exceed(&mut self, message: String) -> io::Result<()> {
        self.exceeded = Some(message);
        Err(io::Error::other("too much"))
    }
}

/// Whether a file system has no more to give than its reserve. One that counts no blocks or files has no end of them.
fn is_full(now: &StatVfs) -> bool {
    let block = now.f_frsize.max(1);
    let reserve = (now.f_blocks.saturating_mul(block) / RESERVE).min(MOST_RESERVED);
    let bytes = now.f_bavail.saturating_mul(block);
    (now.f_blocks > 0 && bytes < reserve) || (now.f_files > 0 && now.f_favail < now.f_files / RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_it_may_be_is_too_much() {
        let mut limits = Limits::new(Some(1000), None);
        limits.check(1000).unwrap();
        limits.check(1001).unwrap_err();
        assert!(limits.exceeded().unwrap().contains("1000 bytes"));
        Limits::default().check(u64::MAX).unwrap();
    }

    #[test]
    fn a_part_of_a_file_system_stays_free() {
        let folder = tempfile::tempdir().unwrap();
        let real = rustix::fs::statvfs(folder.path()).unwrap();
        let of = |blocks: u64, free: u64, files: u64, free_files: u64| StatVfs {
            f_frsize: 4096,
            f_blocks: blocks,
            f_bavail: free,
            f_files: files,
            f_favail: free_files,
            ..real
        };
        assert!(!is_full(&of(1000, 50, 0, 0)) && is_full(&of(1000, 49, 0, 0)));
        assert!(is_full(&of(1000, 1000, 100, 4)) && !is_full(&of(1000, 1000, 100, 5)));
        // Of a large one a GiB is enough.
        assert!(!is_full(&of(1 << 40, 1 << 18, 0, 0)) && is_full(&of(1 << 40, (1 << 18) - 1, 0, 0)));
        // What the kernel makes up has neither.
        assert!(!is_full(&of(0, 0, 0, 0)));
    }
}
