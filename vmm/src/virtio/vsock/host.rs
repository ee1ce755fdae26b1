//! Where the host's programs are found: the socket that they connect to, and those that they listen on.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use snafu::{ResultExt, ensure};
use vmm_sys::unix_socket::{self, LONGEST_PATH};

use super::{InUseSnafu, ListenSnafu, PathTooLongSnafu, VsockError};

/// The listening socket. It disappears when this is dropped.
#[derive(Debug)]
pub(super) struct HostListener {
    listener: UnixListener,
    path: PathBuf,
    /// What we made, so that nobody else's is removed.
    identity: (u64, u64),
}

impl HostListener {
    /// Makes the socket, for our own user only. A dead one from an earlier run is replaced, a live one is not.
    pub(super) fn bind(path: &Path) -> Result<Self, VsockError> {
        let length = path.as_os_str().as_bytes().len();
        ensure!(length <= LONGEST_PATH, PathTooLongSnafu { path, length, limit: LONGEST_PATH });
        let result = match unix_socket::listen_privately(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                ensure!(is_dead(path), InUseSnafu { path });
                fs::remove_file(path).and_then(|()| unix_socket::listen_privately(path))
            }
            result => result,
        };
        let made = result.and_then(|listener| {
            let metadata = fs::symlink_metadata(path)?;
            Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
        });
        made.context(ListenSnafu { path })
    }

    pub(super) fn socket(&self) -> &UnixListener {
        &self.listener
    }

    /// The next client that has connected, as a socket that does not block.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        unix_socket::accept(&self.listener)
    }

    /// Connects to the program that listens for the guest on a port, without waiting for it.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        unix_socket::connect_now(path.as_ref())
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the vsock socket");
        }
    }
}

/// Whether the path is a socket that nobody listens on.
fn is_dead(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && unix_socket::connect_now(path).is_err_and(refused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_socket_is_our_users_alone_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = HostListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        drop(UnixListener::bind(&path).unwrap());
        let first = HostListener::bind(&path).unwrap();
        let second = HostListener::bind(&path).unwrap_err();
        assert!(matches!(second, VsockError::InUse { .. }), "{second}");
        drop(first);
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        fs::write(&path, "precious").unwrap();
        assert!(HostListener::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn somebody_elses_socket_at_our_path_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = HostListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn a_path_that_fits_no_address_is_refused_with_its_limit() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(LONGEST_PATH)));
        let error = HostListener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("112 bytes long") && error.contains("107"), "{error}");
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = HostListener::bind(&path).unwrap();
        assert!(listener.connect(7).is_err());
        let service = UnixListener::bind(folder.path().join("vsock_7")).unwrap();
        listener.connect(7).unwrap();
        service.accept().unwrap();
    }
}
