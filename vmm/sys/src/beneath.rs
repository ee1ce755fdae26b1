//! Folders opened beneath another one, and nodes of devices made in them: for names that a stranger chose.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

/// How a folder is opened: to be read, and to have others opened in it.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder beneath another one. The path has its names between single slashes, none of them `.` or `..`; an empty
/// one is the folder itself. It passes through no symbolic link, whoever makes one meanwhile: that is an error
/// ([`io::ErrorKind::NotADirectory`] or `ELOOP`).
pub fn open_folder(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let path = if path.is_empty() { b"." } else { path };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        use rustix::io::Errno;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, path, FOLDER, Mode::empty(), resolve) {
            // A kernel before 5.6, or a filter of system calls that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => {}
            result => return Ok(result?),
        }
    }
    one_by_one(root, path)
}

/// The same, name by name.
fn one_by_one(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut folder = openat(root, ".", FOLDER, Mode::empty())?;
    for name in path.split(|byte| *byte == b'/') {
        if name == b".." || name.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        folder = openat(&folder, name, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

/// A node in a file system that is no file, folder or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A device of characters, by its two numbers.
    Character(u32, u32),
    /// A device of blocks.
    Block(u32, u32),
    /// A pipe with a name.
    Fifo,
}

/// Makes a node, for its owner only. Devices need the rights of an administrator; elsewhere than on Linux they are not made.
pub fn make_node(folder: impl AsFd, name: &[u8], node: Node) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FileType, makedev, mknodat};
        let (kind, device) = match node {
            Node::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Node::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
            Node::Fifo => (FileType::Fifo, 0),
        };
        Ok(mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (folder, name, node);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The two numbers of a device.
#[must_use]
pub fn device_numbers(device: u64) -> (u32, u32) {
    #[cfg(target_os = "linux")]
    {
        (rustix::fs::major(device), rustix::fs::minor(device))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let low = u32::try_from(device & 0xffff_ffff).unwrap_or(0);
        (low >> 24, low & 0xff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    #[test]
    fn no_symbolic_link_leads_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        symlink("b", folder.path().join("a/inner")).unwrap();
        symlink("/", folder.path().join("a/outer")).unwrap();
        let root = File::open(folder.path()).unwrap();
        type Open = fn(&File, &[u8]) -> io::Result<OwnedFd>;
        let ways: [Open; 2] =
            [|root, path| open_folder(root, path), |root, path| one_by_one(root.as_fd(), path)];
        for open in ways {
            assert!(open(&root, b"a/b").is_ok());
            for path in
                [&b"a/inner"[..], b"a/outer", b"a/outer/etc", b"a/inner/x", b"..", b"a/..", b"a/../.."]
            {
                let error = open(&root, path).err();
                assert!(error.is_some() || path == b"a/..", "{path:?}");
            }
        }
        assert!(open_folder(&root, b"").is_ok());
        assert!(open_folder(&root, b"missing").is_err());
    }

    #[test]
    fn a_pipe_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        make_node(&root, b"pipe", Node::Fifo).unwrap();
        assert!(fs::metadata(folder.path().join("pipe")).unwrap().file_type().is_fifo());
        assert!(make_node(&root, b"pipe", Node::Fifo).is_err());
    }
}
