//! A storage that remembers everything that was done to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Mutex;

use super::MemoryStorage;
use crate::Storage;
use crate::bytes::index;
use crate::locking::lock;

/// Something that was done to a storage, or a mark that a test made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A range was zeroed, or its space given back.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// Whether the file grew to hold it.
        grows: bool,
    },
    /// The length was set.
    SetLength(u64),
    /// Everything before is durable.
    Sync,
    /// The test was here.
    Mark(u64),
}

/// What a recorder saw, from a state that was durable.
#[derive(Clone, Debug)]
pub struct Log {
    /// The bytes at the beginning.
    pub initial: Vec<u8>,
    /// What was done then.
    pub events: Vec<Event>,
}

/// A storage in memory with a log.
#[derive(Debug)]
pub struct Recorder {
    memory: MemoryStorage,
    log: Mutex<Log>,
}

impl Recorder {
    /// Holds these bytes, which are taken to be durable.
    pub fn new(bytes: Vec<u8>) -> Self {
        let log = Log { initial: bytes.clone(), events: Vec::new() };
        Self { memory: MemoryStorage::new(bytes), log: Mutex::new(log) }
    }

    /// Notes that the test was here.
    pub fn mark(&self, mark: u64) {
        lock(&self.log).events.push(Event::Mark(mark));
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.memory.bytes()
    }

    /// The log so far; a new one begins with what is held now.
    pub fn take_log(&self) -> Log {
        let mut log = lock(&self.log);
        let next = Log { initial: self.memory.bytes(), events: Vec::new() };
        std::mem::replace(&mut log, next)
    }

    /// Does something and notes it, so that the order in the log is the order in which it happened.
    fn record(&self, event: Event, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut log = lock(&self.log);
        act()?;
        log.events.push(event);
        Ok(())
    }
}

impl Storage for Recorder {
    fn length(&self) -> io::Result<u64> {
        self.memory.length()
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.memory.read(buffers, offset)
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.record(Event::Write { offset, bytes }, || self.memory.write(buffers, offset))
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let event = Event::Zero { offset, length, grows: !unmap };
        self.record(event, || self.memory.write_zeroes(offset, length, unmap))
    }

    fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.record(Event::SetLength(length), || self.memory.set_length(length))
    }

    fn sync(&self) -> io::Result<()> {
        self.record(Event::Sync, || Ok(()))
    }
}

impl Event {
    /// Does it again, as far as `keeps` says: it is asked for each sector of the file, by its number.
    pub fn apply(&self, bytes: &mut Vec<u8>, keeps: impl Fn(u64) -> bool) {
        match self {
            Self::Write { offset, bytes: written } => {
                for (start, end) in sectors(*offset, written.len() as u64) {
                    if keeps(start / 512) {
                        let piece = &written[index(start - offset)..index(end - offset)];
                        reach(bytes, end);
                        bytes[index(start)..index(end)].copy_from_slice(piece);
                    }
                }
            }
            Self::Zero { offset, length, grows } => {
                for (start, end) in sectors(*offset, *length) {
                    if keeps(start / 512) {
                        if *grows {
                            reach(bytes, end);
                        }
                        let limit = bytes.len();
                        bytes[index(start).min(limit)..index(end).min(limit)].fill(0);
                    }
                }
            }
            Self::SetLength(length) => bytes.resize(index(*length), 0),
            Self::Sync | Self::Mark(_) => {}
        }
    }

    /// Whether it changes something.
    pub(super) fn changes(&self) -> bool {
        !matches!(self, Self::Sync | Self::Mark(_))
    }

    /// The range that it changes.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, bytes } => (*offset, offset + bytes.len() as u64),
            Self::Zero { offset, length, .. } => (*offset, offset + length),
            Self::SetLength(_) => (0, u64::MAX),
            Self::Sync | Self::Mark(_) => (0, 0),
        }
    }
}

fn reach(bytes: &mut Vec<u8>, end: u64) {
    if bytes.len() < index(end) {
        bytes.resize(index(end), 0);
    }
}

/// The parts of a range that lie in one sector each.
fn sectors(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + length;
    let mut start = offset;
    std::iter::from_fn(move || {
        let sector_end = end.min((start / 512 + 1) * 512);
        (start < end).then(|| (std::mem::replace(&mut start, sector_end), sector_end))
    })
}
