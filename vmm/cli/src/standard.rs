//! Standard input and output of a client that can be told to end.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm::CancelToken;

/// Standard input and output, which end when they are cancelled, however long they would wait for the program at the other
/// end.
pub(crate) struct Standard<'a> {
    pub(crate) token: &'a CancelToken,
}

impl Standard<'_> {
    fn wait(&self, fd: impl AsFd, flags: PollFlags) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(&fd, flags), PollFd::new(self.token, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Err(io::Error::other("cancelled")),
                Ok(1..) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Standard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(io::stdin(), PollFlags::IN)?;
        Ok(rustix::io::read(io::stdin(), buffer)?)
    }
}

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        /// A pipe that takes anything takes so much without waiting (`PIPE_BUF`).
        const AT_ONCE: usize = 4096;
        self.wait(io::stdout(), PollFlags::OUT)?;
        Ok(rustix::io::write(io::stdout(), &bytes[..bytes.len().min(AT_ONCE)])?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
