//! An event that one thread raises and another waits for, as a file descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

/// A counter in the kernel: non-zero is "raised", and a [`Poller`](crate::Poller) sees that as readable.
///
/// Non-blocking on both sides, so neither a peer that holds the other end of it nor a full counter can hang us.
#[derive(Debug)]
pub struct Event {
    fd: OwnedFd,
}

impl Event {
    /// Makes an event that is not raised.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Takes over a descriptor that a peer sent (vhost-user's kick and call), and makes it non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Raises the event. A counter that is full is raised already, which is all that is asked.
    pub fn notify(&self) -> io::Result<()> {
        match rustix::io::write(&self.fd, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the event back to "not raised"; says whether it was raised.
    pub fn clear(&self) -> io::Result<bool> {
        let mut counter = [0u8; 8];
        match rustix::io::read(&self.fd, &mut counter) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Another handle on the same event.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_raised_until_it_is_cleared() {
        let event = Event::new().unwrap();
        assert!(!event.clear().unwrap());
        event.notify().unwrap();
        event.try_clone().unwrap().notify().unwrap();
        assert!(event.clear().unwrap());
        assert!(!event.clear().unwrap());
    }

    #[test]
    fn a_full_counter_does_not_block_its_notifier() {
        let event = Event::new().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.notify().unwrap();
        assert!(event.clear().unwrap());
    }
}
