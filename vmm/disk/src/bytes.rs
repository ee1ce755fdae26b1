//! Sizes as indices, and bytes that are all zero.

/// A `u64` that is known to fit, as an index: a wrong one is caught by the bounds check that follows.
pub(crate) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
