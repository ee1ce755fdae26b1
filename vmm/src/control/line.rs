//! Lines out of a stream of bytes, with a bound on their length.

use serde::Serialize;
use snafu::Snafu;

/// No line is longer, its end included.
pub const LONGEST_LINE: usize = 64 * 1024;

/// More bytes came without the end of a line than a line may have.
#[derive(Debug, PartialEq, Eq, Snafu)]
#[snafu(display("a line is longer than the {LONGEST_LINE} bytes that are allowed"))]
pub struct LineTooLong;

/// What has arrived and is not a whole line yet.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// No end of a line lies before this.
    searched: usize,
}

impl LineBuffer {
    /// Adds what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole line out, without its end.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        match self.bytes[self.searched..].iter().position(|&byte| byte == b'\n') {
            Some(position) if self.searched + position < LONGEST_LINE => {
                let rest = self.bytes.split_off(self.searched + position + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.pop();
                self.searched = 0;
                Ok(Some(line))
            }
            None if self.bytes.len() < LONGEST_LINE => {
                self.searched = self.bytes.len();
                Ok(None)
            }
            _ => Err(LineTooLong),
        }
    }
}

/// A message as a line.
pub fn to_line<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_without_end_is_refused() {
        let mut buffer = LineBuffer::default();
        buffer.push(&vec![b'x'; LONGEST_LINE - 1]);
        assert_eq!(buffer.next_line(), Ok(None));
        buffer.push(b"x");
        assert_eq!(buffer.next_line(), Err(LineTooLong));
        buffer.push(b"\n");
        assert_eq!(buffer.next_line(), Err(LineTooLong));
    }

    proptest! {
        #[test]
        fn lines_come_out_whole_however_they_arrive(
            lines in proptest::collection::vec("[^\n]{0,40}", 0..8),
            cuts in proptest::collection::vec(1usize..9, 1..64),
        ) {
            let text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let mut buffer = LineBuffer::default();
            let mut found = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                buffer.push(now);
                rest = later;
                while let Some(line) = buffer.next_line().unwrap() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(found, lines);
        }
    }
}
