//! The runtime folder: where sockets lie. A socket's path is short (104 bytes on macOS, with the final zero), so it
//! cannot lie in the home; each home has a folder of its own there, so that two never clash.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use snafu::ensure;

use super::HomeError;
use super::error::SocketPathSnafu;
use super::files;

/// The longest path of a Unix socket that every platform takes.
const LONGEST_SOCKET: usize = 103;

/// The longest path of a socket beneath a home's runtime folder: `/<id>/vsock_<port>`.
const LONGEST_BELOW: usize = "/0123456789ab/vsock_4294967295".len();

/// The folder for the sockets of the home at `root`: there while a VM runs.
pub(super) fn folder_of(root: &Path) -> Result<PathBuf, HomeError> {
    let base = base()?;
    let folder = base.join(digest(root));
    ensure!(
        folder.as_os_str().len() + LONGEST_BELOW <= LONGEST_SOCKET,
        SocketPathSnafu { path: folder.clone() }
    );
    Ok(folder)
}

/// Eight digits that stand for a home.
fn digest(root: &Path) -> String {
    // Two spellings of one folder are one home.
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// `vmm` in the user's runtime folder, or in the system's.
fn base() -> Result<PathBuf, HomeError> {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = user.map(|path| path.join("vmm"))
        && folder.as_os_str().len() + "/01234567".len() + LONGEST_BELOW <= LONGEST_SOCKET
        // It may be another user's (after `su`), or be gone since the last logout.
        && files::private_folder_among_others(&folder).is_ok()
    {
        return Ok(folder);
    }
    let us = rustix::process::geteuid();
    if us.is_root() {
        let folder = PathBuf::from("/run/vmm");
        if files::private_folder_among_others(&folder).is_ok() {
            return Ok(folder);
        }
    }
    let folder = PathBuf::from(format!("/tmp/vmm-{}", us.as_raw()));
    files::private_folder_among_others(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_homes_have_two_folders_and_one_home_has_one() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_ne!(folder_of(first.path()).unwrap(), folder_of(second.path()).unwrap());
        let other_spelling = first.path().join("..").join(first.path().file_name().unwrap());
        assert_eq!(folder_of(first.path()).unwrap(), folder_of(&other_spelling).unwrap());
    }

    #[test]
    fn the_longest_socket_is_short_enough() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder_of(home.path()).unwrap();
        let socket = folder.join("0123456789ab").join(format!("vsock_{}", u32::MAX));
        assert!(socket.as_os_str().len() <= LONGEST_SOCKET, "{}", socket.display());
    }
}
