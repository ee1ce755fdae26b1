//! Holding a file system still, so that its disk is one that was unmounted.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod call {
    // FIFREEZE and FITHAW (linux/fs.h).
    nix::ioctl_readwrite!(freeze, b'X', 119, libc::c_int);
    nix::ioctl_readwrite!(thaw, b'X', 120, libc::c_int);
}

/// Writes everything back that a mounted file system has, and has whoever writes to it wait from now on. `file` is any of
/// its files or folders.
#[expect(unsafe_code, reason = "no safe interface makes this call")]
pub fn freeze(file: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel uses no argument of this call (ioctl_fsfreeze in fs/ioctl.c); the one that is given lives until it
    // returns. What cannot be frozen refuses it.
    unsafe { call::freeze(file.as_fd().as_raw_fd(), &raw mut unused) }?;
    Ok(())
}

/// Lets a frozen file system go on.
#[expect(unsafe_code, reason = "no safe interface makes this call")]
pub fn thaw(file: impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: as above (ioctl_fsthaw).
    unsafe { call::thaw(file.as_fd().as_raw_fd(), &raw mut unused) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_cannot_be_frozen_refuses() {
        // The file system of processes has no disk to be consistent on.
        let folder = File::open("/proc").unwrap();
        assert!(freeze(&folder).is_err());
        assert!(thaw(&folder).is_err());
    }
}
