//! Room for what new clusters take over from below. It is kept, so that a write need not have it made and cleared.

use std::sync::Mutex;

use crate::locking::lock;

/// Buffers that nobody uses: at most as many as there were writes at once.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use; it goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    rooms: &'a Rooms,
    bytes: Vec<u8>,
}

impl Rooms {
    /// Takes a buffer. What is in it means nothing.
    pub(crate) fn take(&self) -> Room<'_> {
        let bytes = lock(&self.free).pop().unwrap_or_default();
        Room { rooms: self, bytes }
    }
}

impl Room<'_> {
    /// So many bytes of it. What is in them means nothing.
    pub(crate) fn bytes(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        &mut self.bytes[..length]
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        lock(&self.rooms.free).push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_used_is_used_again() {
        let rooms = Rooms::default();
        let first = rooms.take().bytes(1000).as_ptr();
        assert_eq!(rooms.take().bytes(500).as_ptr(), first);
        let (mut one, mut other) = (rooms.take(), rooms.take());
        assert_ne!(one.bytes(10).as_ptr(), other.bytes(10).as_ptr());
    }
}
