//! Compressed clusters: read, never written.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::entry::{CompressedCluster, invalid};
use crate::bytes::index;
use crate::locking::lock;
use crate::storage::{Storage, read_at};

/// How much is kept of what was decompressed: a guest reads a cluster in many small pieces.
const CACHE_BYTES: u64 = 1 << 20;
/// And in how many clusters at most, since they are searched one by one.
const CACHE_CLUSTERS: u64 = 16;

/// How the clusters of an image are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Raw deflate.
    Deflate,
    /// A zstd frame.
    Zstd,
}

/// Reads compressed clusters and remembers the last ones.
///
/// What a compressed cluster holds never changes while something refers to it, so there is nothing to invalidate: a
/// place that is freed is never used for a compressed cluster again.
#[derive(Debug)]
pub(crate) struct CompressedReader {
    cluster_size: u64,
    compression: Compression,
    recent: Mutex<VecDeque<(CompressedCluster, Arc<[u8]>)>>,
}

impl CompressedReader {
    /// A reader of clusters of this size.
    pub(crate) fn new(cluster_size: u64, compression: Compression) -> Self {
        Self { cluster_size, compression, recent: Mutex::default() }
    }

    /// The bytes of a whole guest cluster.
    pub(crate) fn read(&self, storage: &dyn Storage, cluster: CompressedCluster) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.recall(cluster) {
            return Ok(bytes);
        }
        let mut compressed = vec![0; index(cluster.length)];
        read_at(storage, &mut compressed, cluster.offset)?;
        let length = index(self.cluster_size);
        let bytes: Arc<[u8]> = match self.compression {
            Compression::Deflate => inflate(&compressed, length)?,
            Compression::Zstd => decode_zstd(&compressed, length)?,
        }
        .into();
        let mut recent = lock(&self.recent);
        let limit = (CACHE_BYTES / self.cluster_size).clamp(1, CACHE_CLUSTERS);
        recent.truncate(index(limit - 1));
        recent.push_front((cluster, bytes.clone()));
        Ok(bytes)
    }

    fn recall(&self, cluster: CompressedCluster) -> Option<Arc<[u8]>> {
        let mut recent = lock(&self.recent);
        let position = recent.iter().position(|(other, _)| *other == cluster)?;
        let entry = recent.remove(position)?;
        let bytes = entry.1.clone();
        recent.push_front(entry);
        Some(bytes)
    }
}

/// The first `length` bytes of a zstd frame. What follows the frame in its last sector is not looked at.
fn decode_zstd(compressed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let corrupt = || invalid("a compressed cluster does not decompress to a cluster");
    let mut frame = compressed;
    let mut decoder = FrameDecoder::new();
    decoder.reset(&mut frame).map_err(|_| corrupt())?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let wanted = BlockDecodingStrategy::UptoBytes(length - filled);
        let finished = decoder.is_finished();
        if !finished {
            decoder.decode_blocks(&mut frame, wanted).map_err(|_| corrupt())?;
        }
        match decoder.read(&mut bytes[filled..])? {
            0 if finished => return Err(corrupt()),
            count => filled += count,
        }
    }
    Ok(bytes)
}

/// Inflates to exactly `length` bytes. What follows the compressed data in its last sector is not looked at.
fn inflate(compressed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut stream = Decompress::new(false);
    let corrupt = || invalid("a compressed cluster does not decompress to a cluster");
    let status = stream.decompress(compressed, &mut bytes, FlushDecompress::Finish).map_err(|_| corrupt())?;
    let complete = stream.total_out() == length as u64;
    match status {
        Status::Ok | Status::BufError | Status::StreamEnd if complete => Ok(bytes),
        _ => Err(corrupt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_cluster_inflates_whatever_follows_it() {
        let bytes: Vec<u8> = (0..512_u32).map(|n| (n / 7).to_le_bytes()[0]).collect();
        let mut compressed = deflate(&bytes);
        compressed.extend([0xff; 100]);
        assert_eq!(inflate(&compressed, 512).unwrap(), bytes);
    }

    #[test]
    fn a_zstd_cluster_is_decoded_whatever_follows_it() {
        let bytes: Vec<u8> = (0..65536_u32).map(|n| (n / 7).to_le_bytes()[0]).collect();
        let encode = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let mut compressed = encode(&bytes);
        compressed.extend([0; 100]);
        assert_eq!(decode_zstd(&compressed, bytes.len()).unwrap(), bytes);
        assert!(decode_zstd(&encode(&[1; 511]), 512).is_err());
        assert!(decode_zstd(&compressed[..compressed.len() / 2], bytes.len()).is_err());
        assert!(decode_zstd(&[0xff; 64], 512).is_err());
        assert!(decode_zstd(&[], 512).is_err());
    }

    #[test]
    fn too_little_and_nonsense_are_errors() {
        assert!(inflate(&deflate(&[1; 511]), 512).is_err());
        assert!(inflate(&[0xff; 64], 512).is_err());
        assert!(inflate(&[], 512).is_err());
    }
}
