//! Mount attributes of a whole tree at once.

use std::ffi::CStr;
use std::io;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Makes the mount at `path` and every one beneath it read-only, without device files and set-id programs.
///
/// Only adds restrictions, so that it is allowed where a less privileged owner of the mounts has locked some.
/// Needs Linux 5.12.
#[expect(unsafe_code, reason = "mount_setattr(2) has no wrapper")]
pub fn restrict_tree(path: &CStr) -> io::Result<()> {
    let attributes = MountAttributes {
        set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: `path` is a terminated string and `attributes` a structure of the size that is given; the call reads
    // both and keeps neither (mount_setattr(2)).
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
