//! Where clients connect: a vsock port that only the host reaches, or, without a machine around us, a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr, getpeername};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use vmm_protocol::HOST_CID;

/// "Any address" for vsock.
const CID_ANY: u32 = u32::MAX;

/// Connections that the system keeps for us until we take them.
const BACKLOG: i32 = 128;

/// Takes connections of clients.
pub enum Listener {
    /// From the host only.
    Vsock(OwnedFd),
    /// From whoever may open the socket's file.
    Unix(OwnedFd),
}

impl Listener {
    /// Listens on a vsock port. A port below 1024 is refused to guest users.
    pub fn vsock(port: u32) -> io::Result<Self> {
        let fd = vsock_socket(SockFlag::SOCK_NONBLOCK)?;
        socket::bind(fd.as_raw_fd(), &VsockAddr::new(CID_ANY, port))?;
        socket::listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(Self::Vsock(fd))
    }

    /// Takes over a Unix socket that listens already: whoever opened it decides who reaches it.
    pub(crate) fn unix(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self::Unix(fd))
    }

    /// Takes a connection, which does not block. `None`: there was none, or it came from whom we do not serve.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        let stream = match accept_with(self.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => stream,
            // Whoever connected has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        Ok(self.serves(&stream).then_some(stream))
    }

    /// Whether the peer is one we serve. A program in the guest can reach the port too, by the guest's own address or
    /// the loopback's, and is not the host.
    fn serves(&self, stream: &OwnedFd) -> bool {
        match self {
            Self::Vsock(_) => {
                getpeername::<VsockAddr>(stream.as_raw_fd()).is_ok_and(|peer| peer.cid() == HOST_CID)
            }
            Self::Unix(_) => true,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Vsock(fd) | Self::Unix(fd) => fd.as_fd(),
        }
    }
}

/// For how long we call the host. It has a limit of its own for a boot, and tells its user; ours is only not to be
/// sooner where the host is busy.
const PATIENCE: Duration = Duration::from_secs(600);

/// Connects to a port of the host, from a port that no guest user could have if there is one left.
pub(crate) fn dial_host(port: u32) -> io::Result<OwnedFd> {
    let fd = vsock_socket(SockFlag::empty())?;
    vmm_sys::vsock::set_connect_timeout(&fd, PATIENCE)?;
    for from in (512..1024).rev() {
        if from != port && socket::bind(fd.as_raw_fd(), &VsockAddr::new(CID_ANY, from)).is_ok() {
            break;
        }
    }
    socket::connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, port))?;
    Ok(fd)
}

fn vsock_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?)
}
