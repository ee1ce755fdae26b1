//! A connection for more than one answer: its reads and writes end when they are cancelled, and when the guest lets us wait
//! for too long.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Cancels when it becomes readable.
pub trait Cancel: AsFd + Send + Sync + fmt::Debug {}

impl<T: AsFd + Send + Sync + fmt::Debug> Cancel for T {}

/// So much waiting is earned by bytes that went through: a guest that moves fewer in a second is not waited for for ever.
const BYTES_A_SECOND: u64 = 1024;

/// How long a guest is waited for.
#[derive(Clone, Copy, Debug)]
enum Patience {
    /// As long as it takes.
    Endless,
    /// No longer than this in all.
    Once(Duration),
    /// No longer than this for nothing: what goes through earns time.
    Flow { left: Duration, most: Duration },
}

/// The connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    cancel: Option<Arc<dyn Cancel>>,
    /// A word of the guest's ends a write: it says that it takes no more.
    listens: bool,
    patience: Patience,
}

impl Wire {
    pub(super) fn new(stream: UnixStream, cancel: Option<Arc<dyn Cancel>>) -> Self {
        Self { stream, cancel, listens: false, patience: Patience::Endless }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Lets a word of the guest's end a write.
    pub(super) fn listening(self) -> Self {
        Self { listens: true, ..self }
    }

    /// From now on the guest may keep us waiting for so long without anything going through.
    pub(super) fn flowing(self, most: Duration) -> Self {
        Self { patience: Patience::Flow { left: most, most }, ..self }
    }

    /// From now on the guest may keep us waiting for so long in all.
    pub(super) fn wait_no_longer_than(&mut self, most: Duration) {
        self.patience = Patience::Once(most);
    }

    /// Waits for the guest to say something, as long as it takes.
    pub(super) fn wait_for_word(&mut self) -> io::Result<()> {
        self.patience = Patience::Endless;
        self.wait(PollFlags::IN).map(drop)
    }

    /// Waits until something can be done, and says what.
    fn wait(&mut self, flags: PollFlags) -> io::Result<PollFlags> {
        let began = Instant::now();
        let waited = self.wait_until(flags, began);
        let passed = began.elapsed();
        if let Patience::Once(left) | Patience::Flow { left, .. } = &mut self.patience {
            *left = left.saturating_sub(passed);
        }
        waited
    }

    fn wait_until(&self, flags: PollFlags, began: Instant) -> io::Result<PollFlags> {
        let most = match self.patience {
            Patience::Endless => None,
            Patience::Once(left) | Patience::Flow { left, .. } => Some(left),
        };
        loop {
            let left = most.map(|most| most.saturating_sub(began.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // A time that does not fit into the system's type is for ever.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(&self.stream, flags)];
            fds.extend(
                self.cancel.iter().map(|cancel| PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)),
            );
            match poll(&mut fds, left.as_ref()) {
                Ok(_) if fds.get(1).is_some_and(|cancel| cancel.revents().contains(PollFlags::IN)) => {
                    return Err(io::Error::other("cancelled"));
                }
                Ok(_) if !fds[0].revents().is_empty() => return Ok(fds[0].revents()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn went_through(&mut self, length: usize) {
        if let Patience::Flow { left, most } = &mut self.patience {
            let earned = Duration::from_micros((length as u64).saturating_mul(1_000_000 / BYTES_A_SECOND));
            *left = left.saturating_add(earned).min(*most);
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    self.went_through(length);
                    return Ok(length);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let listens = if self.listens { PollFlags::IN } else { PollFlags::empty() };
            if self.wait(PollFlags::OUT | listens)?.intersects(listens) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.went_through(length);
                    return Ok(length);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
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
    use super::*;
    use std::thread;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(ours, None), theirs)
    }

    #[test]
    fn a_guest_that_moves_nothing_is_given_up() {
        let (wire, theirs) = pair();
        let mut wire = wire.flowing(Duration::from_millis(20));
        assert_eq!(wire.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (wire, _theirs) = pair();
        let mut wire = wire.flowing(Duration::from_millis(20));
        let written = io::copy(&mut io::repeat(0), &mut wire);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is time that is tested")]
    fn a_guest_that_drips_is_given_up() {
        let (wire, mut theirs) = pair();
        let mut wire = wire.flowing(Duration::from_millis(100));
        let drip = thread::spawn(move || {
            while theirs.write_all(b".").is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        // Each byte earns a millisecond, and costs ten.
        let read = io::copy(&mut wire, &mut io::sink());
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(wire);
        drip.join().unwrap();
    }

    #[test]
    fn what_goes_through_earns_time_up_to_a_limit() {
        let (wire, _theirs) = pair();
        let mut wire = wire.flowing(Duration::from_secs(2));
        wire.patience = Patience::Flow { left: Duration::ZERO, most: Duration::from_secs(2) };
        wire.went_through(1024);
        let Patience::Flow { left, .. } = wire.patience else { unreachable!() };
        assert!((990..=1000).contains(&left.as_millis()), "{left:?}");
        wire.went_through(usize::MAX);
        assert!(matches!(wire.patience, Patience::Flow { left, most } if left == most));
    }
}
