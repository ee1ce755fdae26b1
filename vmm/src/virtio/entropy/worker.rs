//! The queue's thread: what it spends on a guest that asks in a loop.

use std::time::{Duration, Instant};

use super::request::{AnswerError, answer, answer_length};
use crate::memory::Regions;
use crate::virtio::log_limit::LogLimit;
use crate::virtio::{Chain, QueueHandler, Served};

static FAILED: LogLimit = LogLimit::new();

/// A guest gets so many bytes at once, and then as many in each second. Linux wants some hundred at boot and then a
/// few every minute; whoever wants more has a generator of its own to feed.
const BUDGET: u32 = 1 << 20;

/// Serves the queue. The thread is one of the device's own, so a guest that asks in a loop slows nobody but itself;
/// the budget keeps it from costing a processor.
pub(super) struct EntropyQueue {
    budget: Budget,
}

impl EntropyQueue {
    pub(super) fn new() -> Self {
        Self { budget: Budget::full(Instant::now()) }
    }
}

impl QueueHandler for EntropyQueue {
    fn serve(&mut self, chain: &Chain, memory: &Regions) -> Served {
        // A chain without room costs something too.
        let cost = answer_length(chain).max(64);
        if let Err(pause) = self.budget.spend(cost, Instant::now()) {
            return Served::Later(pause);
        }
        match answer(chain, memory, host_entropy) {
            Ok(written) => Served::Done(written),
            Err(error) => {
                if let Some(left_out) = FAILED.permit() {
                    match error {
                        AnswerError::Source(error) => {
                            tracing::error!(%error, left_out, "the host has no entropy");
                        }
                        AnswerError::Chain(error) => {
                            tracing::warn!(%error, left_out, "no entropy for the guest");
                        }
                    }
                }
                Served::Done(0)
            }
        }
    }
}

fn host_entropy(mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Bytes that may be given out now: refilled with time, never above [`BUDGET`].
struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self { left: BUDGET, filled: now }
    }

    /// Takes `cost`, which must not be above the budget, or says when there will be enough.
    fn spend(&mut self, cost: u32, now: Instant) -> Result<(), Duration> {
        if self.left < cost {
            let earned = now.duration_since(self.filled).as_micros() * u128::from(BUDGET) / 1_000_000;
            // The clock goes on only when something came of it: a fraction of a byte is not lost.
            if earned > 0 {
                self.left = u32::try_from(earned).unwrap_or(BUDGET).saturating_add(self.left).min(BUDGET);
                self.filled = now;
            }
        }
        if self.left < cost {
            // A tenth of a second refills a tenth of the budget: more than any answer.
            return Err(Duration::from_millis(100));
        }
        self.left -= cost;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::MAXIMUM_ANSWER;
    use super::*;

    #[test]
    fn a_guest_that_asks_in_a_loop_gets_the_budget_and_then_its_refill() {
        let start = Instant::now();
        let mut budget = Budget::full(start);
        let mut given = 0;
        while budget.spend(MAXIMUM_ANSWER, start).is_ok() {
            given += MAXIMUM_ANSWER;
        }
        assert_eq!(given, BUDGET);

        let mut now = start;
        let mut given = 0;
        while now < start + Duration::from_secs(10) {
            match budget.spend(MAXIMUM_ANSWER, now) {
                Ok(()) => given += MAXIMUM_ANSWER,
                Err(pause) => now += pause,
            }
        }
        assert!((9 * BUDGET..=10 * BUDGET).contains(&given), "{given} bytes in ten seconds");
    }

    #[test]
    fn a_guest_that_was_idle_for_long_has_no_more_than_the_budget() {
        let start = Instant::now();
        let mut budget = Budget::full(start);
        let later = start + Duration::from_secs(1 << 32);
        let mut given = 0u32;
        while budget.spend(64, later).is_ok() {
            given += 64;
        }
        // What was left before the refill counts as well.
        assert!(given <= 2 * BUDGET, "{given} bytes at once");
    }
}
