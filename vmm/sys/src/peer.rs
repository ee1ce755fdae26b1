//! Who is at the other end of a Unix socket, as the system vouches for it.

use std::io;
use std::os::fd::AsFd;

/// The user that connected, or that listens.
pub fn user(socket: impl AsFd) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// The process that connected, or that listens. `None`: it is of no process that we can see.
pub fn process(socket: impl AsFd) -> io::Result<Option<u32>> {
    let pid = rustix::net::sockopt::socket_peercred(socket)?.pid.as_raw_nonzero().get();
    Ok(u32::try_from(pid).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn our_own_peer_is_us() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(user(&ours).unwrap(), rustix::process::geteuid().as_raw());
        assert_eq!(process(&ours).unwrap(), Some(std::process::id()));
    }
}
