//! What the chains of the queues say: which pages the guest does without (virtio 1.2, 5.5.6).

use vm_memory::GuestAddress;

use crate::memory::Regions;
use crate::virtio::{Chain, QueueError};

/// The unit of the protocol, whatever the pages of guest and host are.
pub(super) const PAGE_SIZE: u32 = 4096;

/// No more pages of a request are looked at: it bounds how long a queue takes to stop. Linux names 256.
pub(super) const MAXIMUM_PAGES: usize = 1024;

/// The pages that a request names, in order and each once. The room is kept from request to request.
#[derive(Default)]
pub(super) struct Pages {
    bytes: Vec<u8>,
    numbers: Vec<u32>,
}

impl Pages {
    /// Reads the numbers of the pages, of four bytes each; a rest that is none is left out.
    pub(super) fn read(&mut self, chain: &Chain, memory: &Regions) -> Result<(), QueueError> {
        let count = (chain.readable_length() as usize / 4).min(MAXIMUM_PAGES);
        self.bytes.resize(4 * count, 0);
        chain.reader(memory).read(&mut self.bytes)?;
        let words = self.bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
        self.numbers.clear();
        self.numbers.extend(words.map(u32::from_le_bytes));
        self.numbers.sort_unstable();
        self.numbers.dedup();
        Ok(())
    }

    /// The pages as runs of neighbours: where each begins, and its length. Linux takes its pages one by one, and they
    /// lie side by side more often than not.
    pub(super) fn runs(&self) -> impl Iterator<Item = (GuestAddress, u64)> {
        let runs = self.numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
        runs.filter_map(|run| {
            let start = u64::from(*run.first()?) * u64::from(PAGE_SIZE);
            Some((GuestAddress(start), run.len() as u64 * u64::from(PAGE_SIZE)))
        })
    }
}
