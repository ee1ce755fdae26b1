//! Lines of an input.

use std::io::{self, Read};

/// The longest line that is read: a file that is written comes in one.
pub(super) const LONGEST: usize = 32 << 20;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// One that was too long, and was passed over.
    TooLong,
}

/// The lines of an input.
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// Before this is no end of a line.
    seen: usize,
    /// What comes up to the next end of a line belongs to one that is too long.
    skipping: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), seen: 0, skipping: false }
    }

    /// The next line; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = self.buffer[self.seen..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(self.seen + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.seen = 0;
                let too_long = std::mem::take(&mut self.skipping) || line.len() > LONGEST;
                return Ok(Some(if too_long { Line::TooLong } else { Line::Whole(line) }));
            }
            self.seen = self.buffer.len();
            if self.seen > LONGEST {
                self.buffer = Vec::new();
                self.seen = 0;
                self.skipping = true;
            }
            let mut bytes = [0; 64 << 10];
            match self.input.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(length) => self.buffer.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
