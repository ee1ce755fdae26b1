//! What the ext4 file system can be asked for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

mod call {
    // EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h): the new number of blocks.
    nix::ioctl_write_ptr!(resize, b'f', 16, u64);
}

/// Makes a mounted ext4 file system so many blocks large, of which `file` is a part. Nothing happens where it is as large
/// already.
#[expect(unsafe_code, reason = "no safe interface makes this call")]
pub fn resize(file: impl AsFd, blocks: u64) -> io::Result<()> {
    // SAFETY: the call reads the one number that it is given, which lives until it returns. Another file system than
    // ext4 does not know the call and refuses it.
    unsafe { call::resize(file.as_fd().as_raw_fd(), &raw const blocks) }?;
    Ok(())
}
