//! The thread of the queue with the guest's output.

use std::fs::File;
use std::io::Write;

use super::request::read;
use crate::memory::Regions;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, QueueHandler, Served};

static FAILED: LogLimit = LogLimit::new();

/// Serves the queue.
pub(super) struct TransmitQueue {
    /// `None`: nobody is there to read it any more.
    output: Option<File>,
}

impl TransmitQueue {
    pub(super) fn new(output: File) -> Self {
        Self { output: Some(output) }
    }

    /// Says whether somebody reads it.
    fn say(&mut self, text: &[u8]) -> bool {
        if let Some(output) = &mut self.output
            && let Err(error) = output.write_all(text)
        {
            tracing::debug!(%error, "the console is gone");
            self.output = None;
        }
        self.output.is_some()
    }
}

impl QueueHandler for TransmitQueue {
    /// What cannot be written is lost, as on a line that nobody listens to.
    fn serve(&mut self, chain: &Chain, memory: &Regions) -> Served {
        if let Err(error) = read(chain, memory, |text| self.say(text))
            && let Some(left_out) = FAILED.permit()
        {
            tracing::warn!(%error, left_out, "cannot read what the guest writes to its console");
        }
        Served::Done(0)
    }
}
