//! Claims on guest clusters: who is about to change a mapping has it alone.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::locking::lock;

/// The guest clusters whose mappings are being changed.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<Vec<Range<u64>>>,
    released: Condvar,
}

/// A claim; dropping it gives the clusters free.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    clusters: Range<u64>,
}

impl Claims {
    /// Waits until none of the clusters is claimed and claims them. Nobody claims twice at once, so nobody waits in
    /// a circle.
    pub(crate) fn claim(&self, clusters: Range<u64>) -> Claim<'_> {
        let mut held = lock(&self.held);
        while held.iter().any(|other| other.start < clusters.end && clusters.start < other.end) {
            held = self.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.push(clusters.clone());
        Claim { claims: self, clusters }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.claims.held);
        if let Some(position) = held.iter().position(|other| *other == self.clusters) {
            held.swap_remove(position);
        }
        drop(held);
        self.claims.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_claim_waits_for_those_it_overlaps() {
        let claims = Claims::default();
        let done = AtomicBool::new(false);
        let first = claims.claim(4..8);
        let _apart = claims.claim(8..9);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _claim = claims.claim(7..8);
                assert!(done.load(Ordering::SeqCst), "the claim came while the other was held");
            });
            done.store(true, Ordering::SeqCst);
            drop(first);
            waiting.join().unwrap();
        });
        drop(claims.claim(0..8));
    }
}
