//! When a guest wrote what is in its console's log. Beside the log lies a list of moments, at most one a second while the
//! guest writes: a line for each with the time, in milliseconds since 1970, and where in the log what came then begins.
//!
//! ```text
//! 1760000000123 0
//! 1760000001124 5310
//! ```
//!
//! What lies between two places came within a second after the first one's time, for a later moment would have had a line
//! of its own. The list goes with its log when that becomes the older one. A line that is none, as on a disk that was
//! full, is passed over.

use super::Timestamp;

/// A moment, and where in the log what was written then begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleTime {
    /// The moment.
    pub at: Timestamp,
    /// The place, in bytes from the log's start.
    pub offset: u64,
}

/// How far moments are apart at least.
pub const CONSOLE_TIME_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl ConsoleTime {
    /// As a line of the list.
    pub fn to_line(self) -> String {
        format!("{} {}\n", self.at.0, self.offset)
    }

    /// The moments of a list for a log of this length, by place.
    pub fn parse_list(list: &str, length: u64) -> Vec<Self> {
        let mut times: Vec<Self> = Vec::new();
        for line in list.lines() {
            let numbers = line.split_once(' ').map(|(at, offset)| (at.parse().ok(), offset.parse().ok()));
            let Some((Some(at), Some(offset))) = numbers else { continue };
            if offset <= length && times.last().is_none_or(|last| last.offset <= offset) {
                times.push(Self { at: Timestamp(at), offset });
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_what_is_no_line_is_passed_over() {
        let times = [(1000, 0), (2500, 70)].map(|(at, offset)| ConsoleTime { at: Timestamp(at), offset });
        let list: String = times.map(ConsoleTime::to_line).concat();
        assert_eq!(ConsoleTime::parse_list(&list, 70), times);
        assert_eq!(
            ConsoleTime::parse_list("1000 0\n-1 5\n\n7\nx y\n2500 70\n2600 3\n2700 71\n28", 70),
            times
        );
    }
}
