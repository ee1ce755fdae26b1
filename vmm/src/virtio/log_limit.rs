//! A bound on what a guest can make us log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most [`LogLimit::BURST`] lines in each [`LogLimit::PERIOD`]; the rest is counted and left out.
///
/// Kept in a `static` beside the code that logs what a guest does:
///
/// ```ignore
/// static REFUSED: LogLimit = LogLimit::new();
/// if let Some(left_out) = REFUSED.permit() {
///     tracing::warn!(left_out, "refused a request");
/// }
/// ```
#[derive(Debug)]
pub struct LogLimit {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// How many lines may be logged in a period.
    pub const BURST: u32 = 5;
    /// The length of a period.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// A limit that has let nothing pass yet.
    pub const fn new() -> Self {
        Self { window: Mutex::new(None) }
    }

    /// `Some`: a line may be logged; the number is how many were left out before it.
    pub fn permit(&self) -> Option<u64> {
        self.permit_at(Instant::now())
    }

    fn permit_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let current = window.get_or_insert(Window { began: now, lines: 0, left_out: 0 });
        if now.duration_since(current.began) >= Self::PERIOD {
            current.began = now;
            current.lines = 0;
        }
        if current.lines == Self::BURST {
            current.left_out += 1;
            return None;
        }
        current.lines += 1;
        Some(std::mem::take(&mut current.left_out))
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = LogLimit::new();
        let start = Instant::now();
        for _ in 0..LogLimit::BURST {
            assert_eq!(limit.permit_at(start), Some(0));
        }
        for _ in 0..100 {
            assert_eq!(limit.permit_at(start), None);
        }
        assert_eq!(limit.permit_at(start + LogLimit::PERIOD), Some(100));
        assert_eq!(limit.permit_at(start + LogLimit::PERIOD), Some(0));
    }
}
