//! The queues' threads: pages are given back, or nothing needs to be done.

use std::error::Error;

use vm_memory::GuestAddress;

use super::request::Pages;
use super::{DEFLATE, INFLATE, REPORT, REPORT_COMPACT};
use crate::memory::{Regions, give_back};
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, QueueHandler, Served};

static FAILED: LogLimit = LogLimit::new();

/// What serves a queue.
pub(super) enum BalloonQueue {
    /// Pages that the guest does without until it takes them back.
    Inflate(Pages),
    /// Pages that it takes back. They are there as soon as it touches them, so there is nothing to do.
    Deflate,
    /// Pages that are free until the report is answered; what they hold then does not matter to the guest.
    Report,
}

impl BalloonQueue {
    /// `None`: there is no such queue.
    pub(super) fn new(index: u16) -> Option<Self> {
        match index {
            INFLATE => Some(Self::Inflate(Pages::default())),
            DEFLATE => Some(Self::Deflate),
            REPORT_COMPACT | REPORT => Some(Self::Report),
            _ => None,
        }
    }
}

impl QueueHandler for BalloonQueue {
    /// A page that cannot be given back stays: the guest does without it in any case.
    fn serve(&mut self, chain: &Chain, memory: &Regions) -> Served {
        match self {
            Self::Inflate(pages) => match pages.read(chain, memory) {
                Ok(()) => pages.runs().for_each(|(start, length)| discard(memory, start, length)),
                Err(error) => log(&error),
            },
            Self::Deflate => {}
            Self::Report => {
                for segment in chain.writable_segments() {
                    discard(memory, segment.address, segment.length.into());
                }
            }
        }
        Served::Done(0)
    }
}

fn discard(memory: &Regions, start: GuestAddress, length: u64) {
    if let Err(error) = give_back(memory, start, length) {
        log(&error);
    }
}

fn log(error: &(dyn Error + 'static)) {
    if let Some(left_out) = FAILED.permit() {
        tracing::warn!(error, left_out, "cannot give a guest's pages back");
    }
}
