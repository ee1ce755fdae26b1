//! The tail of an output stream: what a client that attaches later gets to see.

use std::collections::VecDeque;

/// How much of each stream is kept.
pub(super) const RING_SIZE: usize = 64 * 1024;

/// The last bytes of a stream, and how many there were in all.
#[derive(Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    total: u64,
}

impl Ring {
    /// Adds what the stream brought; the oldest bytes make room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(RING_SIZE)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(RING_SIZE);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// What is kept from a position of the stream on, in two pieces, and the position where it starts.
    pub(super) fn tail_from(&self, position: u64) -> (u64, [&[u8]; 2]) {
        let oldest = self.total - self.bytes.len() as u64;
        let start = position.clamp(oldest, self.total);
        let skip = usize::try_from(start - oldest).unwrap_or(RING_SIZE);
        let (first, second) = self.bytes.as_slices();
        let pieces = match first.get(skip..) {
            Some(first) => [first, second],
            None => [&second[skip - first.len()..], &[]],
        };
        (start, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(ring: &Ring, position: u64) -> (u64, Vec<u8>) {
        let (start, pieces) = ring.tail_from(position);
        (start, pieces.concat())
    }

    #[test]
    fn a_position_that_is_kept_is_where_the_tail_starts() {
        let mut ring = Ring::default();
        ring.push(b"hello ");
        ring.push(b"world");
        assert_eq!(tail(&ring, 0), (0, b"hello world".to_vec()));
        assert_eq!(tail(&ring, 6), (6, b"world".to_vec()));
        assert_eq!(tail(&ring, 99), (11, vec![]));
    }

    #[test]
    fn only_the_last_bytes_are_kept_however_they_come() {
        let stream: Vec<u8> = (0..300_000u32).map(|index| (index % 251) as u8).collect();
        for piece in [1000, RING_SIZE - 1, RING_SIZE, 200_000] {
            let mut ring = Ring::default();
            stream.chunks(piece).for_each(|bytes| ring.push(bytes));
            let start = stream.len() - RING_SIZE;
            assert_eq!(tail(&ring, 0), (start as u64, stream[start..].to_vec()));
            let near_end = stream.len() - 10;
            assert_eq!(tail(&ring, near_end as u64), (near_end as u64, stream[near_end..].to_vec()));
        }
    }
}
