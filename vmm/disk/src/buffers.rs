//! Windows on scattered buffers.

use std::io::{IoSlice, IoSliceMut};

/// How many bytes the buffers hold.
pub(crate) fn length(buffers: &[IoSlice<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}

/// How many bytes the buffers hold.
pub(crate) fn length_mut(buffers: &[IoSliceMut<'_>]) -> u64 {
    buffers.iter().map(|buffer| buffer.len() as u64).sum()
}

/// A `u64` that is known to fit, as an index: a wrong one is caught by the bounds check that follows.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The `length` bytes from `start` on.
pub(crate) fn window<'a>(buffers: &'a [IoSlice<'_>], start: u64, length: u64) -> Vec<IoSlice<'a>> {
    let (mut skip, mut rest) = (index(start), index(length));
    let mut window = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        if rest == 0 {
            break;
        }
        if skip >= buffer.len() {
            skip -= buffer.len();
            continue;
        }
        let end = buffer.len().min(skip.saturating_add(rest));
        window.push(IoSlice::new(&buffer[skip..end]));
        rest -= end - skip;
        skip = 0;
    }
    window
}

/// The `length` bytes from `start` on.
pub(crate) fn window_mut<'a>(
    buffers: &'a mut [IoSliceMut<'_>],
    start: u64,
    length: u64,
) -> Vec<IoSliceMut<'a>> {
    let (mut skip, mut rest) = (index(start), index(length));
    let mut window = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        if rest == 0 {
            break;
        }
        if skip >= buffer.len() {
            skip -= buffer.len();
            continue;
        }
        let end = buffer.len().min(skip.saturating_add(rest));
        window.push(IoSliceMut::new(&mut buffer[skip..end]));
        rest -= end - skip;
        skip = 0;
    }
    window
}

/// Fills all buffers with zeroes.
pub(crate) fn zero(buffers: &mut [IoSliceMut<'_>]) {
    for buffer in buffers {
        buffer.fill(0);
    }
}

/// Fills the buffers from `bytes`, which hold at least as much.
pub(crate) fn scatter(bytes: &[u8], buffers: &mut [IoSliceMut<'_>]) {
    let mut rest = bytes;
    for buffer in buffers {
        let (now, later) = rest.split_at(buffer.len().min(rest.len()));
        buffer[..now.len()].copy_from_slice(now);
        rest = later;
    }
}

/// Whether all bytes are zero.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(16);
    chunks.by_ref().all(|chunk| chunk == [0; 16]) && chunks.remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_crosses_buffers() {
        let parts: [&[u8]; 4] = [b"ab", b"", b"cde", b"f"];
        let buffers = parts.map(IoSlice::new);
        let text = |start, length| {
            window(&buffers, start, length).iter().flat_map(|b| b.to_vec()).collect::<Vec<u8>>()
        };
        assert_eq!(text(0, 6), b"abcdef");
        assert_eq!(text(1, 3), b"bcd");
        assert_eq!(text(2, 1), b"c");
        assert_eq!(text(5, 1), b"f");
        assert_eq!(text(3, 0), b"");
    }

    #[test]
    fn a_window_to_write_into_crosses_buffers() {
        let (mut first, mut second) = ([0; 2], [0; 3]);
        let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        scatter(b"xyz", &mut window_mut(&mut buffers, 1, 3));
        assert_eq!((first, second), ([0, b'x'], [b'y', b'z', 0]));
    }

    #[test]
    fn zeroes_are_told_from_the_rest() {
        assert!(all_zero(&[]));
        assert!(all_zero(&[0; 37]));
        for position in [0, 15, 16, 36] {
            let mut bytes = [0; 37];
            bytes[position] = 1;
            assert!(!all_zero(&bytes));
        }
    }
}
