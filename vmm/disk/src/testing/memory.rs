//! A storage in memory that fails when told to.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Mutex, MutexGuard};

use vmm_sys::scattered::{length, length_mut, scatter, zero};

use crate::Storage;
use crate::bytes::index;
use crate::locking::lock;

/// Bytes in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    capacity: Option<u64>,
    fail_next_sync: bool,
    writes_until_failure: Option<u64>,
}

impl MemoryStorage {
    /// Holds these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { bytes, ..State::default() }) }
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Lets it grow to `capacity` bytes and no further: more is answered like a full disk. `None`: no limit.
    pub fn limit(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Fails the next sync.
    pub fn fail_next_sync(&self) {
        self.state().fail_next_sync = true;
    }

    /// Fails every write after the next `count`, as a full disk does. `None`: none fails.
    pub fn fail_writes_after(&self, count: Option<u64>) {
        self.state().writes_until_failure = count;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Makes room for a write that ends at `end`.
    fn reach(&mut self, end: Option<u64>) -> io::Result<()> {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        match &mut self.writes_until_failure {
            Some(0) => return Err(full()),
            Some(count) => *count -= 1,
            None => {}
        }
        let end = end.ok_or_else(full)?;
        if self.capacity.is_some_and(|capacity| end > capacity) {
            return Err(full());
        }
        if end > self.bytes.len() as u64 {
            let more = index(end) - self.bytes.len();
            self.bytes.try_reserve(more).map_err(|_| full())?;
            self.bytes.resize(index(end), 0);
        }
        Ok(())
    }
}

impl Storage for MemoryStorage {
    fn length(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let state = self.state();
        let start = index(offset).min(state.bytes.len());
        let end = index(offset.saturating_add(length_mut(buffers))).min(state.bytes.len());
        zero(buffers);
        scatter(&state.bytes[start..end], buffers);
        Ok(())
    }

    fn write(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.reach(offset.checked_add(length(buffers)))?;
        let mut position = index(offset);
        for buffer in buffers {
            state.bytes[position..position + buffer.len()].copy_from_slice(buffer);
            position += buffer.len();
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let mut state = self.state();
        if !unmap {
            state.reach(offset.checked_add(length))?;
        }
        let start = index(offset).min(state.bytes.len());
        let end = index(offset.saturating_add(length)).min(state.bytes.len());
        state.bytes[start..end].fill(0);
        Ok(())
    }

    fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.reach(Some(length))?;
        state.bytes.truncate(index(length));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if std::mem::take(&mut self.state().fail_next_sync) {
            return Err(io::Error::other("the sync failed"));
        }
        Ok(())
    }
}
