//! Compressed clusters: read, never written.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use flate2::{Decompress, FlushDecompress, Status};

use super::entry::{CompressedCluster, invalid};
use crate::bytes::index;
use crate::locking::lock;
use crate::storage::{Storage, read_at};

/// How much is kept of what was decompressed: a guest reads a cluster in many small pieces.
const CACHE_BYTES: u64 = 1 << 20;
/// And in how many clusters at most, since they are searched one by one.
const CACHE_CLUSTERS: u64 = 16;

/// Reads compressed clusters and remembers the last ones.
///
/// What a compressed cluster holds never changes while something refers to it, so there is nothing to invalidate: a
/// place that is freed is never used for a compressed cluster again.
#[derive(Debug)]
pub(crate) struct CompressedReader {
    cluster_size: u64,
    recent: Mutex<VecDeque<(CompressedCluster, Arc<[u8]>)>>,
}

impl CompressedReader {
    /// A reader of clusters of this size.
    pub(crate) fn new(cluster_size: u64) -> Self {
        Self { cluster_size, recent: Mutex::default() }
    }

    /// The bytes of a whole guest cluster.
    pub(crate) fn read(&self, storage: &dyn Storage, cluster: CompressedCluster) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = self.recall(cluster) {
            return Ok(bytes);
        }
        let mut compressed = vec![0; index(cluster.length)];
        read_at(storage, &mut compressed, cluster.offset)?;
        let bytes: Arc<[u8]> = inflate(&compressed, index(self.cluster_size))?.into();
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
    fn too_little_and_nonsense_are_errors() {
        assert!(inflate(&deflate(&[1; 511]), 512).is_err());
        assert!(inflate(&[0xff; 64], 512).is_err());
        assert!(inflate(&[], 512).is_err());
    }
}
