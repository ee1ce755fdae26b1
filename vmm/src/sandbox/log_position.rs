//! Where in a console's log a reader begins: at the last lines, or at what was written since a moment.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::logs::{identity, open_if_there};
use crate::home::{CONSOLE_TIME_INTERVAL, CONTINUED, ConsoleTime, Timestamp, VmFolder};

/// How much is read at once.
const BLOCK: usize = 32 << 10;

/// A line that began longer ago is not shown from its start.
const LONGEST_LINE: usize = 4 << 10;

/// How often it is tried to look at files that are exchanged meanwhile.
const ATTEMPTS: usize = 5;

/// A file of the log, and when what is in it was written.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    length: u64,
    times: Vec<ConsoleTime>,
}

/// A place in the log: in which of its parts, and where.
pub(super) type Place = (usize, u64);

/// The log's files, the older first.
pub(super) fn parts(folder: &VmFolder) -> io::Result<Vec<Part>> {
    let newer = folder.console_log();
    let mut left = ATTEMPTS;
    loop {
        let first = open_if_there(&newer)?;
        let older = open_if_there(&folder.console_log_older())?;
        // The lists before the lengths: what is listed is then in the file, or was never of it.
        let lists = [folder.console_times_older(), folder.console_times()];
        let lists = lists.map(|path| fs::read_to_string(path).unwrap_or_default());
        let now = open_if_there(&newer)?;
        left -= 1;
        let same = identities(first.as_ref())? == identities(now.as_ref())?;
        if !same && left > 0 {
            continue;
        }
        let files = [older, first].into_iter().zip(lists);
        let parts = files.filter_map(|(file, list)| Some((file?, list))).map(|(file, list)| {
            let length = file.metadata()?.len();
            Ok(Part { file, length, times: ConsoleTime::parse_list(&list, length) })
        });
        return parts.collect();
    }
}

fn identities(file: Option<&File>) -> io::Result<Option<(u64, u64)>> {
    file.map(identity).transpose()
}

/// Where what was written since a moment begins, as exactly as that is known: a little before rather than after. What
/// nobody knows the time of counts as written since.
pub(super) fn since(parts: &[Part], moment: Timestamp) -> io::Result<Place> {
    let interval = u64::try_from(CONSOLE_TIME_INTERVAL.as_millis()).unwrap_or_default();
    let is_old = |time: &ConsoleTime| time.at.0.saturating_add(interval) <= moment.0;
    for (number, part) in parts.iter().enumerate().rev() {
        let Some(last) = part.times.iter().rposition(is_old) else { continue };
        return match part.times.get(last + 1) {
            Some(next) => Ok((number, line_start(part, next.offset)?)),
            None => Ok((number, part.length)),
        };
    }
    Ok((0, 0))
}

/// Where the line begins that a place is in.
fn line_start(part: &Part, place: u64) -> io::Result<u64> {
    let from = place.saturating_sub(LONGEST_LINE as u64);
    let before = read(part, from, place)?;
    let start = before.iter().rposition(|&byte| byte == b'\n').map(|end| from + end as u64 + 1);
    Ok(start.unwrap_or(if from == 0 { 0 } else { place }))
}

/// Where the last lines begin.
pub(super) fn last_lines(parts: &[Part], count: u64) -> io::Result<Place> {
    let Some(end) = parts.iter().rposition(|part| part.length > 0) else { return Ok((0, 0)) };
    if count == 0 {
        return Ok((parts.len() - 1, parts[parts.len() - 1].length));
    }
    let mut left = count;
    for (number, part) in parts[..=end].iter().enumerate().rev() {
        // That a file goes on where another ended is no line.
        let start = if number > 0 && begins_continued(part)? { CONTINUED.len() as u64 } else { 0 };
        let mut to = part.length;
        while to > start {
            let from = to.saturating_sub(BLOCK as u64).max(start);
            let bytes = read(part, from, to)?;
            for (index, _) in bytes.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n') {
                let next = from + index as u64 + 1;
                // The end of the last line begins no other.
                if number == end && next == part.length {
                    continue;
                }
                left -= 1;
                if left == 0 {
                    return Ok((number, next));
                }
            }
            to = from;
        }
    }
    Ok((0, 0))
}

fn begins_continued(part: &Part) -> io::Result<bool> {
    Ok(read(part, 0, CONTINUED.len() as u64)? == CONTINUED)
}

/// What is there of a part between two places.
fn read(part: &Part, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to.min(part.length).saturating_sub(from)).unwrap_or_default()];
    part.file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn part(text: &[u8], times: &[(u64, u64)]) -> Part {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        let times = times.iter().map(|&(at, offset)| ConsoleTime { at: Timestamp(at), offset }).collect();
        Part { file, length: text.len() as u64, times }
    }

    fn continued(text: &[u8]) -> Vec<u8> {
        [CONTINUED, text].concat()
    }

    #[test]
    fn the_last_lines_are_found_in_both_files() {
        let head = CONTINUED.len() as u64;
        // "b" goes on in the newer file: one line.
        let parts = [part(b"a\nb", &[]), part(&continued(b"b\nc\nd\n"), &[])];
        let place = |count| last_lines(&parts, count).unwrap();
        assert_eq!(place(0), (1, head + 6));
        assert_eq!(place(1), (1, head + 4));
        assert_eq!(place(2), (1, head + 2));
        assert_eq!(place(3), (0, 2));
        assert_eq!(place(4), (0, 0));
        assert_eq!(place(u64::MAX), (0, 0));
    }

    #[test]
    fn a_last_line_without_an_end_is_one_and_long_files_are_read_in_blocks() {
        let parts = [part(b"a\nb\nhalf", &[])];
        assert_eq!(last_lines(&parts, 1).unwrap(), (0, 4));
        assert_eq!(last_lines(&parts, 2).unwrap(), (0, 2));
        let long = vec![b'x'; 3 * BLOCK];
        let parts = [part(&[b"first\n", &long[..], b"\n"].concat(), &[])];
        assert_eq!(last_lines(&parts, 1).unwrap(), (0, 6));
        assert_eq!(last_lines(&[], 1).unwrap(), (0, 0));
    }

    #[test]
    fn what_was_written_since_a_moment_begins_with_a_whole_line() {
        let parts = [
            part(b"one\ntwo\n", &[(10_000, 0), (20_000, 4)]),
            part(b"three\nfour\n", &[(30_000, 0), (40_000, 8)]),
        ];
        let place = |moment| since(&parts, Timestamp(moment)).unwrap();
        assert_eq!(place(0), (0, 0));
        // What came with the first moment came up to a second after it.
        assert_eq!(place(10_999), (0, 0));
        assert_eq!(place(11_000), (0, 4));
        assert_eq!(place(25_000), (0, 8));
        // The line was half written when its time was noted.
        assert_eq!(place(31_000), (1, 6));
        assert_eq!(place(41_000), (1, 11));
    }

    #[test]
    fn what_nobody_knows_the_time_of_is_shown() {
        let parts = [part(b"old\n", &[]), part(b"new\n", &[(10_000, 0)])];
        assert_eq!(since(&parts, Timestamp(5000)).unwrap(), (0, 0));
        assert_eq!(since(&parts, Timestamp(99_000)).unwrap(), (1, 4));
        assert_eq!(since(&[], Timestamp(99_000)).unwrap(), (0, 0));
    }
}
