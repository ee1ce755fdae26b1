//! What a chain says: text of the guest's, which may be anything.

use crate::memory::Regions;
use crate::virtio::{Chain, QueueError};

/// No more of a chain is taken: it bounds how long a queue takes to stop. Linux sends 32 KiB at most.
pub(super) const MAXIMUM_TEXT: u32 = 64 << 10;

/// How much is copied at once.
const PIECE: usize = 4096;

/// Hands on the chain's text, piece by piece, until `say` has heard enough.
pub(super) fn read(
    chain: &Chain,
    memory: &Regions,
    mut say: impl FnMut(&[u8]) -> bool,
) -> Result<(), QueueError> {
    let mut bytes = [0; PIECE];
    let mut text = chain.reader(memory);
    let mut left = chain.readable_length().min(MAXIMUM_TEXT) as usize;
    while left > 0 {
        let piece = &mut bytes[..left.min(PIECE)];
        text.read(piece)?;
        left -= piece.len();
        if !say(piece) {
            break;
        }
    }
    Ok(())
}
