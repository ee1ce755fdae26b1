//! One request: how much of it is answered.

use std::io;

use crate::memory::Regions;
use crate::virtio::{Chain, QueueError};

/// No request is answered with more bytes than this; the driver asks again for the rest. Linux asks for 64.
pub(super) const MAXIMUM_ANSWER: u32 = 4096;

/// How many bytes the answer to a chain has.
pub(super) fn answer_length(chain: &Chain) -> u32 {
    chain.writable_length().min(MAXIMUM_ANSWER)
}

/// Fills the beginning of the chain with random bytes from `source`, and says how many.
pub(super) fn answer(
    chain: &Chain,
    memory: &Regions,
    mut source: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<u32, AnswerError> {
    let mut bytes = [0; MAXIMUM_ANSWER as usize];
    let length = answer_length(chain);
    let bytes = &mut bytes[..length as usize];
    source(bytes).map_err(AnswerError::Source)?;
    chain.writer(memory).write(bytes).map_err(AnswerError::Chain)?;
    Ok(length)
}

/// Why a request got no bytes.
#[derive(Debug)]
pub(super) enum AnswerError {
    /// The host has none.
    Source(io::Error),
    /// The guest's memory is gone.
    Chain(QueueError),
}
