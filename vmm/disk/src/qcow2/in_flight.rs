//! Requests under way, so that a cluster is used again only when nobody can still be reading or writing it.
//!
//! A request looks a cluster up, lets go of the tables and does its I/O. Meanwhile the cluster may lose its
//! reference and be wanted for something else. So each request belongs to an epoch; a cluster retired in one epoch
//! is free once the requests of that epoch and the earlier ones have ended. Two counters are enough, since an epoch
//! begins only when the one before the last is over.

use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of requests under way, by the parity of their epoch.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    active: [AtomicU64; 2],
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket<'a>(&'a AtomicU64);

impl InFlight {
    /// Begins a request. The caller holds the lock under which the epoch changes.
    pub(crate) fn enter(&self, epoch: u64) -> Ticket<'_> {
        let active = &self.active[usize::from(!epoch.is_multiple_of(2))];
        active.fetch_add(1, Ordering::AcqRel);
        Ticket(active)
    }

    /// Whether no request is under way in the epochs of this parity.
    pub(crate) fn is_idle(&self, epoch: u64) -> bool {
        self.active[usize::from(!epoch.is_multiple_of(2))].load(Ordering::Acquire) == 0
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
