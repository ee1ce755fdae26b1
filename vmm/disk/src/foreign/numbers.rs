//! Numbers in headers. What lies outside of the bytes reads as zero, which no format takes for a size.

use crate::bytes::index;

fn bytes_at<const N: usize>(bytes: &[u8], offset: u64) -> [u8; N] {
    let start = index(offset);
    let found = start.checked_add(N).and_then(|end| bytes.get(start..end));
    found.and_then(|found| found.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn be32(bytes: &[u8], offset: u64) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, offset))
}

pub(crate) fn be64(bytes: &[u8], offset: u64) -> u64 {
    u64::from_be_bytes(bytes_at(bytes, offset))
}

pub(crate) fn le16(bytes: &[u8], offset: u64) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, offset))
}

pub(crate) fn le32(bytes: &[u8], offset: u64) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, offset))
}

pub(crate) fn le64(bytes: &[u8], offset: u64) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, offset))
}
