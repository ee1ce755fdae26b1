//! How a connection to a port of the guest is made.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with, sockopt,
};
use snafu::ResultExt;

use super::AgentError;
use super::error::{ConnectSnafu, NotVsockSnafu, RefusedSnafu};

const WHAT: &str = "connect to the agent";

/// Makes connections to ports of one guest.
pub trait Connector: Send + Sync + fmt::Debug {
    /// Connects to a port and sends the first bytes of the conversation behind it: one way to the guest instead of
    /// two. What is then read from the stream is from the guest.
    fn connect(&self, port: u32, first: &[u8], deadline: Instant) -> Result<UnixStream, AgentError>;
}

/// A machine's vsock device as a Unix socket, with the convention that Firecracker introduced: `CONNECT <port>\n` is
/// answered with `OK <port>\n` when the guest took the connection, and with the end of the stream when not.
#[derive(Clone, Debug)]
pub struct VsockSocket {
    path: PathBuf,
}

impl VsockSocket {
    /// The device behind this socket.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Connector for VsockSocket {
    fn connect(&self, port: u32, first: &[u8], deadline: Instant) -> Result<UnixStream, AgentError> {
        let path = &self.path;
        let stream = connect_by(path, deadline).context(ConnectSnafu { path })?;
        let mut opening = format!("CONNECT {port}\n").into_bytes();
        opening.extend_from_slice(first);
        let mut timed = Timed::new(&stream, Some(deadline));
        let greeting = timed.write_all(&opening).and_then(|()| timed.read_line());
        let line = match greeting {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return NotVsockSnafu { path }.fail(),
            Err(error) => match AgentError::from_io(WHAT, error) {
                AgentError::Lost { .. } => return RefusedSnafu { port }.fail(),
                error => return Err(error),
            },
        };
        if !line.starts_with(b"OK ") {
            return NotVsockSnafu { path }.fail();
        }
        Ok(stream)
    }
}

/// Connects; a listener whose queue is full is waited for until the deadline.
fn connect_by(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A timeout of zero would be none.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    // It would stay, and end the input of a process that does not read for as long.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    Ok(socket.into())
}

/// A stream whose reads and writes fail with [`io::ErrorKind::TimedOut`] after a deadline, whatever the descriptor's
/// mode is, and however much the peer has sent: one that never stops must not make us work for ever.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Option<Instant>,
    cancel: Option<BorrowedFd<'a>>,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, deadline: Option<Instant>) -> Self {
        Self { stream, deadline, cancel: None }
    }

    /// Takes the time for up as soon as this can be read.
    pub(super) fn or(self, cancel: Option<BorrowedFd<'a>>) -> Self {
        Self { cancel, ..self }
    }

    /// Reads a line, byte by byte, since what follows it belongs to the guest.
    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        /// No line of the convention is longer.
        const LIMIT: usize = 32;
        let mut line = Vec::with_capacity(LIMIT);
        while line.last() != Some(&b'\n') {
            if line.len() == LIMIT {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            line.extend(byte);
        }
        Ok(line)
    }

    /// The time that is left; none for ever. An error when it is up.
    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let cancel = self.cancel.unwrap_or(self.stream.as_fd());
        let wanted = if self.cancel.is_some() { PollFlags::IN } else { PollFlags::empty() };
        loop {
            // A time that does not fit into the system's type is for ever.
            let left = self.left()?.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::new(self.stream, flags), PollFd::from_borrowed_fd(cancel, wanted)];
            match poll(&mut fds, left.as_ref()) {
                Ok(_) if fds[1].revents().contains(PollFlags::IN) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.left()?;
        if self.cancel.is_some() {
            self.wait(PollFlags::IN)?;
        }
        loop {
            match recv(self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(length),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left()?;
        loop {
            match send(self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => return Ok(length),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_connection_keeps_no_timeout_of_its_making() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let device = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"OK 1\n").unwrap();
            stream
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let stream = VsockSocket::new(path).connect(1023, b"hello", deadline).unwrap();
        assert_eq!(stream.write_timeout().unwrap(), None);
        assert_eq!(stream.read_timeout().unwrap(), None);
        drop(device.join().unwrap());
    }

    #[test]
    fn a_deadline_holds_however_much_the_peer_has_sent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[0; 4096]).unwrap();
        let read = Timed::new(&ours, Some(Instant::now())).read(&mut [0; 16]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let read = Timed::new(&ours, Some(Instant::now() + Duration::from_secs(60))).read(&mut [0; 16]);
        assert_eq!(read.unwrap(), 16);
    }

    #[test]
    fn a_read_is_cancelled_however_much_the_peer_has_sent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (cancel, mut other) = UnixStream::pair().unwrap();
        theirs.write_all(&[0; 4096]).unwrap();
        assert_eq!(Timed::new(&ours, None).or(Some(cancel.as_fd())).read(&mut [0; 16]).unwrap(), 16);
        other.write_all(b"x").unwrap();
        let read = Timed::new(&ours, None).or(Some(cancel.as_fd())).read(&mut [0; 16]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
