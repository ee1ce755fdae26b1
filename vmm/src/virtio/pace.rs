//! When a driver is told of answers: not of each by itself, where it has more to ask for anyway.
//!
//! An interrupt costs the guest, and a kick the device, more than a small request costs the disk. A driver that waits for
//! the next answer takes each that it is told of and waits again; so it is told of half of what it asked for at once, and
//! makes new requests while the device has the other half to do. And a driver that has many requests under way goes on
//! making them without being told of anything: where experience says so, a short pause, without kicks, collects them.

use std::thread;
use std::time::{Duration, Instant};

/// The longest that the driver is not told of an answer while others are being made.
const HELD_BACK: Duration = Duration::from_micros(50);

/// A pause for further requests; the system makes it longer by as much again.
const PAUSE: Duration = Duration::from_micros(20);

/// The longest that the driver is not told of an answer for the sake of requests that may come.
const PATIENCE: Duration = Duration::from_micros(200);

/// A pause in vain costs as much as so many others gain.
const IN_VAIN: i32 = 8;

/// How much is remembered of the pauses that were worth it.
const MOST_CREDIT: i32 = 32;

/// After so many answers, a driver that has little under way is tried again.
const TRIED_AGAIN: i32 = -512;

/// When the driver of one queue is told, by what was seen of it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many answers it was not told of.
    untold: u16,
    /// When the device took the first of these up.
    since: Option<Instant>,
    /// Not negative: a pause is worth a try.
    credit: i32,
}

impl Pace {
    /// The device takes up a chain.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// It has answered the chain, and so many others wait: says whether to tell the driver now.
    pub(super) fn is_due(&mut self, waiting: u16) -> bool {
        self.untold += 1;
        if self.credit < 0 {
            self.credit += 1;
        }
        let is_half = waiting > 0 && self.untold >= waiting;
        is_half || self.untold == u16::MAX || self.waits_for(HELD_BACK)
    }

    /// Nothing waits: pauses for more if that is likely to come, and says whether it came.
    pub(super) fn pause(&mut self, came: impl Fn() -> bool) -> bool {
        if self.untold == 0 || self.credit < 0 || self.waits_for(PATIENCE) {
            return false;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "shorter than any poller waits, and without a kick to wait for"
        )]
        thread::sleep(PAUSE);
        let came = came();
        self.credit = match self.credit {
            credit if came => (credit + 1).min(MOST_CREDIT),
            credit if credit < IN_VAIN => TRIED_AGAIN,
            credit => credit - IN_VAIN,
        };
        came
    }

    /// The driver is to be told of everything: says whether there is anything.
    pub(super) fn end(&mut self) -> bool {
        self.since = None;
        std::mem::take(&mut self.untold) > 0
    }

    fn waits_for(&self, limit: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_told_of_half_of_what_waited() {
        let mut pace = Pace { since: Instant::now().checked_add(Duration::from_secs(60)), ..Pace::default() };
        let due: Vec<bool> = (0..8).rev().map(|waiting| pace.is_due(waiting)).collect();
        assert_eq!(due, [false, false, false, true, true, true, true, false]);
        assert!(pace.end());
        assert!(!pace.end());
    }

    #[test]
    fn an_answer_that_took_long_is_told_at_once() {
        let mut pace = Pace { since: Instant::now().checked_sub(HELD_BACK), ..Pace::default() };
        pace.begin();
        assert!(pace.is_due(100));
    }

    #[test]
    fn pauses_in_vain_are_given_up_and_tried_again_later() {
        let mut pace = Pace::default();
        assert!(!pace.pause(|| panic!("there is nothing to tell")));
        pace.is_due(0);
        assert!(!pace.pause(|| false));
        for _ in TRIED_AGAIN..0 {
            assert!(!pace.pause(|| panic!("a pause so soon")));
            pace.is_due(0);
        }
        assert!(pace.pause(|| true));
    }

    #[test]
    fn a_driver_with_much_under_way_may_pause_itself() {
        let mut pace = Pace { untold: 1, credit: MOST_CREDIT, ..Pace::default() };
        for _ in 0..MOST_CREDIT / IN_VAIN {
            assert!(!pace.pause(|| false));
        }
        assert!(pace.pause(|| true), "it is tried until the credit is used up");
    }
}
