//! The buffers of a system call, where they may lie in memory that somebody else writes meanwhile, such as a guest's:
//! measured, cut and filled by their addresses, without a reference to their bytes.

use std::io::{IoSlice, IoSliceMut};

use libc::iovec;

// The layout that both slices promise.
const _: () = assert!(size_of::<IoSlice<'_>>() == size_of::<iovec>());
const _: () = assert!(size_of::<IoSliceMut<'_>>() == size_of::<iovec>());

/// How many bytes the buffers hold.
pub fn length(buffers: &[IoSlice<'_>]) -> u64 {
    sum(buffers.iter().map(parts))
}

/// How many bytes the buffers hold.
pub fn length_mut(buffers: &[IoSliceMut<'_>]) -> u64 {
    sum(buffers.iter().map(parts_mut))
}

/// The `length` bytes from `start` on.
pub fn window<'a>(buffers: &'a [IoSlice<'_>], start: u64, length: u64) -> Vec<IoSlice<'a>> {
    let whole = |part| {
        // SAFETY: `IoSlice` has the layout of an `iovec`; this one lies within one of `buffers`, whose memory is
        // there to be read for as long as they are borrowed.
        #[expect(unsafe_code, reason = "a part of a buffer, without a reference to its bytes")]
        unsafe {
            std::mem::transmute::<iovec, IoSlice<'a>>(part)
        }
    };
    cut(buffers.iter().map(parts), start, length).map(whole).collect()
}

/// The `length` bytes from `start` on.
pub fn window_mut<'a>(buffers: &'a mut [IoSliceMut<'_>], start: u64, length: u64) -> Vec<IoSliceMut<'a>> {
    let whole = |part| {
        // SAFETY: `IoSliceMut` has the layout of an `iovec`; this one lies within one of `buffers`, which are
        // borrowed, and thereby unused, for as long as it lives.
        #[expect(unsafe_code, reason = "a part of a buffer, without a reference to its bytes")]
        unsafe {
            std::mem::transmute::<iovec, IoSliceMut<'a>>(part)
        }
    };
    cut(buffers.iter().map(parts_mut), start, length).map(whole).collect()
}

/// Fills all buffers with zeroes.
pub fn zero(buffers: &mut [IoSliceMut<'_>]) {
    for part in buffers.iter().map(parts_mut) {
        // SAFETY: the buffer is there to be written, `iov_len` bytes from `iov_base` on.
        #[expect(unsafe_code, reason = "a buffer is filled without a reference to its bytes")]
        unsafe {
            part.iov_base.cast::<u8>().write_bytes(0, part.iov_len);
        }
    }
}

/// Fills the buffers from `bytes`, as far as these reach.
pub fn scatter(bytes: &[u8], buffers: &mut [IoSliceMut<'_>]) {
    let mut rest = bytes;
    for part in buffers.iter().map(parts_mut) {
        let (now, later) = rest.split_at(part.iov_len.min(rest.len()));
        // SAFETY: the buffer is there to be written and holds at least `now`; `bytes` are ours, and no buffer
        // that may be written lies in what is borrowed as they are.
        #[expect(unsafe_code, reason = "a buffer is filled without a reference to its bytes")]
        unsafe {
            part.iov_base.cast::<u8>().copy_from_nonoverlapping(now.as_ptr(), now.len());
        }
        rest = later;
    }
}

/// Address and length of a buffer.
fn parts(buffer: &IoSlice<'_>) -> iovec {
    // SAFETY: `IoSlice` is documented to be ABI compatible with `iovec`, which any bytes of this size are.
    #[expect(unsafe_code, reason = "the buffer's address, without a reference to its bytes")]
    unsafe {
        std::ptr::from_ref(buffer).cast::<iovec>().read()
    }
}

/// Address and length of a buffer.
fn parts_mut(buffer: &IoSliceMut<'_>) -> iovec {
    // SAFETY: `IoSliceMut` is documented to be ABI compatible with `iovec`, which any bytes of this size are.
    #[expect(unsafe_code, reason = "the buffer's address, without a reference to its bytes")]
    unsafe {
        std::ptr::from_ref(buffer).cast::<iovec>().read()
    }
}

fn sum(parts: impl Iterator<Item = iovec>) -> u64 {
    parts.map(|part| part.iov_len as u64).sum()
}

/// What of the buffers lies within `length` bytes from `start` on, and is not empty.
fn cut(parts: impl Iterator<Item = iovec>, start: u64, length: u64) -> impl Iterator<Item = iovec> {
    // What does not fit is more than any buffers hold.
    let index = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (mut skip, mut rest) = (index(start), index(length));
    parts.filter_map(move |part| {
        let from = skip.min(part.iov_len);
        let count = rest.min(part.iov_len - from);
        (skip, rest) = (skip - from, rest - count);
        // The end of the last buffer at most: `from` is no more than its length.
        (count > 0).then(|| iovec { iov_base: part.iov_base.wrapping_byte_add(from), iov_len: count })
    })
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
        assert_eq!(length(&buffers), 6);
        assert_eq!(text(0, 6), b"abcdef");
        assert_eq!(text(1, 3), b"bcd");
        assert_eq!(text(2, 1), b"c");
        assert_eq!(text(5, 1), b"f");
        assert_eq!(text(5, u64::MAX), b"f");
        assert_eq!(text(3, 0), b"");
        assert_eq!(text(6, 1), b"");
        assert_eq!(text(u64::MAX, 1), b"");
    }

    #[test]
    fn a_window_to_write_into_crosses_buffers() {
        let (mut first, mut second) = ([0; 2], [0; 3]);
        let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(length_mut(&buffers), 5);
        scatter(b"xyz", &mut window_mut(&mut buffers, 1, 3));
        assert_eq!((first, second), ([0, b'x'], [b'y', b'z', 0]));
    }

    #[test]
    fn buffers_are_filled_as_far_as_the_bytes_reach() {
        let (mut first, mut second) = ([1; 2], [1; 3]);
        scatter(b"xyz", &mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)]);
        assert_eq!((first, second), (*b"xy", [b'z', 1, 1]));
        zero(&mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second[1..])]);
        assert_eq!((first, second), ([0; 2], [b'z', 0, 0]));
    }
}
