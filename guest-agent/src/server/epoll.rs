//! Waiting for everything at once, edge-triggered: a descriptor is added once and says when it becomes ready; what is
//! known to be ready is remembered by whoever owns it. Compared with level-triggered waiting that saves a system call
//! whenever a stream stops and goes on, and a peer that is gone does not wake us again and again.
//!
//! A client's connection is waited for to take more only where it did not take all: every packet that the host has taken
//! would otherwise wake us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Which of a process's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// What it reads.
    Stdin,
    /// What it writes, or its terminal.
    Stdout,
    /// What it complains.
    Stderr,
}

/// Who is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A client wants to connect.
    Listener,
    /// A signal has come.
    Signals,
    /// There is news of a freeze.
    Freeze,
    /// A client's connection.
    Connection(u64),
    /// A stream of a process.
    Process(u64, Stream),
}

impl Token {
    fn encode(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Signals => 1,
            Self::Freeze => 6,
            Self::Connection(id) => id << 3 | 2,
            Self::Process(id, Stream::Stdin) => id << 3 | 3,
            Self::Process(id, Stream::Stdout) => id << 3 | 4,
            Self::Process(id, Stream::Stderr) => id << 3 | 5,
        }
    }

    fn decode(number: u64) -> Self {
        let id = number >> 3;
        match number & 7 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Connection(id),
            3 => Self::Process(id, Stream::Stdin),
            4 => Self::Process(id, Stream::Stdout),
            6 => Self::Freeze,
            _ => Self::Process(id, Stream::Stderr),
        }
    }
}

const READABLE: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);

/// Something became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Who.
    pub token: Token,
    /// A read would bring something: bytes, the end, or an error.
    pub readable: bool,
    /// A write would not wait.
    pub writable: bool,
    /// The peer will send nothing more.
    pub ended: bool,
}

/// Everything that is waited for.
pub(super) struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// Makes an empty set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(32) })
    }

    /// Waits for a descriptor to be readable, again and again while it is.
    pub(super) fn add_level(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token.encode()), epoll::EventFlags::IN)?)
    }

    /// Whether a descriptor that was added in that way is waited for.
    pub(super) fn set_level(&self, fd: impl AsFd, token: Token, waited_for: bool) {
        let flags = if waited_for { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        // It fails only for one that was not added, or without memory: then all stays as it is.
        let _ = epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token.encode()), flags);
    }

    /// Waits for a descriptor to become readable or writable. Closing it removes it: it must be the only one of its
    /// open file.
    pub(super) fn add_edge(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = READABLE | epoll::EventFlags::OUT;
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token.encode()), flags)?)
    }

    /// Waits for a descriptor to become readable, and writable only when [`Epoll::want_room`] says so.
    pub(super) fn add_readable(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token.encode()), READABLE)?)
    }

    /// Whether a descriptor that was added in that way is waited for to become writable, too. If it is already, that is said.
    pub(super) fn want_room(&self, fd: impl AsFd, token: Token, wanted: bool) -> io::Result<()> {
        let flags = if wanted { READABLE | epoll::EventFlags::OUT } else { READABLE };
        Ok(epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token.encode()), flags)?)
    }

    /// Waits for a descriptor no more.
    pub(super) fn remove(&self, fd: impl AsFd) {
        // It fails only for one that was not added.
        let _ = epoll::delete(&self.fd, fd);
    }

    /// Waits until something is ready, at most until a deadline.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<Event>> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up: waking before the deadline would only mean to wait again.
        let left = left.map(|left| left + Duration::from_micros(if left.is_zero() { 0 } else { 1 }));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(self.events.iter().map(event).collect())
    }
}

fn event(event: &epoll::Event) -> Event {
    let flags = event.flags;
    let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
    Event {
        token: Token::decode(event.data.u64()),
        readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken),
        writable: flags.intersects(epoll::EventFlags::OUT | broken),
        ended: flags.intersects(epoll::EventFlags::RDHUP | broken),
    }
}
