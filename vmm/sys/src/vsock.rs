//! What vsock sockets can be told, which no safe interface offers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD` (linux/vm_sockets.h): every kernel with vsock has it.
const CONNECT_TIMEOUT: libc::c_int = 6;

/// How long a call to the other side may take. The kernel gives up after 2 seconds unless it is told, which a busy host
/// can exceed.
#[expect(unsafe_code, reason = "no safe interface sets an option of this address family")]
pub fn set_connect_timeout(socket: impl AsFd, timeout: Duration) -> io::Result<()> {
    let seconds = libc::time_t::try_from(timeout.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let timeout = libc::timeval { tv_sec: seconds, tv_usec: timeout.subsec_micros().into() };
    let size = libc::socklen_t::try_from(size_of_val(&timeout)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `size` bytes of `timeout`, which lives until the call returns, and keeps no pointer.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::AF_VSOCK,
            CONNECT_TIMEOUT,
            std::ptr::from_ref(&timeout).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_no_socket_is_refused() {
        let error =
            set_connect_timeout(File::open("/dev/null").unwrap(), Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
