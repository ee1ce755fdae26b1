//! Sitting at a VM's console.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::SendFlags;
use snafu::ResultExt;

use super::error::SystemSnafu;
use super::link::ANSWER_TIMEOUT;
use super::{Error, Sandbox};
use crate::control::{Answer, ControlError, RefusalCode, Request};

/// A seat at a VM's console, beside others perhaps. What is read is what the guest writes, beginning with the last of what
/// it wrote before; what is written is typed there, if the guest reads it. The end of what is read is that of the VM. A
/// clone is the same seat; dropping all of them leaves it.
#[derive(Clone, Debug)]
pub struct Console {
    socket: Arc<UnixStream>,
}

impl Sandbox {
    /// Takes a seat at its console.
    pub fn console(&self) -> Result<Console, Error> {
        let what = "make a socket for the VM's console";
        let (ours, theirs) = UnixStream::pair().context(SystemSnafu { what })?;
        let mut connection = self.link.connect()?;
        let asked = connection.request_with(Request::Console, &[theirs.as_fd()])?;
        drop(theirs);
        match connection.answer(asked, Some(Instant::now() + ANSWER_TIMEOUT), None) {
            Ok(Answer::Console) => Ok(Console { socket: Arc::new(ours) }),
            Ok(_) => Err(ControlError::Malformed.into()),
            Err(ControlError::Refused { refusal }) => Err(match refusal.code {
                RefusalCode::Invalid | RefusalCode::OutOfPlace => Error::Invalid { message: refusal.message },
                _ => Error::OldMonitor { name: self.name().to_owned() },
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Console {
    /// Types what there is room for, and says how much that is: 0 while the guest takes nothing.
    pub fn type_now(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(&*self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Leaves the seat, also for those who have clones of it: what they read ends.
    pub fn leave(&self) {
        // It may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Read for Console {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self.socket).read(bytes)
    }
}

impl Write for Console {
    /// Waits while the guest takes nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&*self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
