//! Waiting for many descriptors at once, level-triggered.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// What to wait for on a descriptor. Hang-up and error are always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Wake when a read would not block.
    pub readable: bool,
    /// Wake when a write would not block.
    pub writable: bool,
}

impl Interest {
    /// Readable only.
    pub const READ: Self = Self { readable: true, writable: false };
    /// Writable only.
    pub const WRITE: Self = Self { readable: false, writable: true };
    /// Both.
    pub const BOTH: Self = Self { readable: true, writable: true };
    /// Neither: only hang-up and error wake.
    pub const NONE: Self = Self { readable: false, writable: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.readable);
        flags.set(epoll::EventFlags::OUT, self.writable);
        flags
    }
}

/// One descriptor that is ready, named by the token it was added with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The token given to [`Poller::add`].
    pub token: u64,
    /// A read would not block (data, end of file or an error).
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The peer is gone, or the descriptor is in error.
    pub hangup: bool,
}

/// A set of descriptors to wait for. One per thread; level-triggered, so nothing is lost by reading late.
pub struct Poller {
    epoll: OwnedFd,
    ready: Vec<Ready>,
}

/// More ready descriptors than this wait for the next call.
const BATCH: usize = 64;

impl Poller {
    /// Makes an empty set.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, ready: Vec::with_capacity(BATCH) })
    }

    /// Adds a descriptor. It must be deleted before it is closed if a duplicate of it lives on elsewhere.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what is waited for.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Removes a descriptor.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or the time is up (then the list is empty). An interrupted wait goes on.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<impl Iterator<Item = Ready> + '_> {
        // A time past the clock's end is never.
        let deadline = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
        self.ready.clear();
        let mut space = [MaybeUninit::uninit(); BATCH];
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match epoll::wait(&self.epoll, &mut space, left.as_ref()) {
                Ok((events, _)) => {
                    self.ready.extend(events.iter().map(ready));
                    return Ok(self.ready.iter().copied());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn ready(event: &epoll::Event) -> Ready {
    let flags = event.flags;
    Ready {
        token: event.data.u64(),
        readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR),
        writable: flags.contains(epoll::EventFlags::OUT),
        hangup: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Event;

    #[test]
    fn a_raised_event_is_ready_until_it_is_cleared() {
        let mut poller = Poller::new().unwrap();
        let event = Event::new().unwrap();
        poller.add(&event, 7, Interest::READ).unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
        event.notify().unwrap();
        for _ in 0..2 {
            let ready: Vec<_> = poller.wait(None).unwrap().collect();
            assert_eq!(ready, [Ready { token: 7, readable: true, writable: false, hangup: false }]);
        }
        event.clear().unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap().count(), 0);
    }

    #[test]
    fn a_peer_that_is_gone_is_a_hangup_even_without_interest() {
        let mut poller = Poller::new().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        poller.add(&ours, 1, Interest::NONE).unwrap();
        drop(theirs);
        assert!(poller.wait(None).unwrap().all(|ready| ready.hangup));
    }
}
