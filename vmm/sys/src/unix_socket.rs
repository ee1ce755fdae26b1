//! Unix sockets beyond what the standard library has: made private before anyone can reach them, never waiting.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, sendmsg, socket_with,
};

/// The longest path of a socket, in bytes.
pub const LONGEST_PATH: usize = if cfg!(target_vendor = "apple") { 103 } else { 107 };

/// How many clients the system keeps while the listener is busy; the next one's `connect` waits.
const BACKLOG: i32 = 1024;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Makes a listening socket that only our own user can connect to, at no moment anyone else. It does not block.
pub fn listen_privately(path: &Path) -> io::Result<UnixListener> {
    let socket = new_socket()?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    // Nobody can connect before this.
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The next client that has connected, as a socket that does not block.
pub fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let socket = rustix::io::retry_on_intr(|| accept_with(listener, FLAGS))?;
    Ok(socket.into())
}

/// Connects without waiting, to a socket that does not block. A listener that has too many clients already is an
/// error ([`io::ErrorKind::WouldBlock`]).
pub fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let socket = new_socket()?;
    let address = SocketAddrUnix::new(path)?;
    rustix::io::retry_on_intr(|| connect(&socket, &address))?;
    Ok(socket.into())
}

/// Sends the bytes of several buffers and says how many went. A peer that is gone is an error, and never the signal
/// that a plain write raises (`SIGPIPE`).
pub fn send(socket: impl AsFd, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut nothing_beside = SendAncillaryBuffer::default();
    let send = || sendmsg(&socket, buffers, &mut nothing_beside, SendFlags::NOSIGNAL);
    Ok(rustix::io::retry_on_intr(send)?)
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn a_listener_is_private_and_takes_clients_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = listen_privately(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let _client = connect_now(&path).unwrap();
        accept(&listener).unwrap();
    }

    #[test]
    fn a_listener_with_too_many_clients_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = new_socket().unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 0).unwrap();
        let _first = connect_now(&path).unwrap();
        let refused = (0..4).find_map(|_| connect_now(&path).err()).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn several_buffers_are_sent_at_once_and_a_peer_that_is_gone_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(send(&ours, &[IoSlice::new(b"one "), IoSlice::new(b"two")]).unwrap(), 7);
        let mut bytes = [0; 7];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one two");
        // Not closed: until its exec, a child that another test starts may hold a copy of the descriptor.
        theirs.shutdown(Shutdown::Both).unwrap();
        assert_eq!(send(&ours, &[IoSlice::new(b"x")]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_longest_path_is_the_longest() {
        let longest = "x".repeat(LONGEST_PATH);
        assert!(SocketAddrUnix::new(&longest).is_ok());
        assert!(std::os::unix::net::SocketAddr::from_pathname(&longest).is_ok());
        assert!(std::os::unix::net::SocketAddr::from_pathname(longest + "x").is_err());
    }
}
