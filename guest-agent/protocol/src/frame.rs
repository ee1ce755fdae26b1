//! Frames: typed pieces of data after the headers of a connection.
//!
//! Eight bytes, then the data: the kind, three zeros, the data's length as a 32-bit little-endian number.

use snafu::{Snafu, ensure};

/// The size of what stands before a frame's data.
pub const FRAME_HEADER_SIZE: usize = 8;

/// No frame carries more data. What is longer is sent as several.
pub const MAX_FRAME: usize = 64 * 1024;

/// The frame that reports a process's end is a few words.
pub const MAX_EXIT_FRAME: usize = 4096;

/// What a frame's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// For the process's standard input (client to agent).
    Stdin = 1,
    /// The standard input ends here (client to agent; no data).
    StdinEnd = 2,
    /// From the process's standard output, or its terminal (agent to client).
    Stdout = 3,
    /// From the process's standard error (agent to client).
    Stderr = 4,
    /// The process has ended and this was all of its output (agent to client): an [`Exit`](crate::Exit) as JSON. The
    /// last frame.
    Exit = 5,
    /// The client is no longer attached, the process goes on (agent to client; no data). The last frame.
    Detached = 6,
}

/// Why bytes are no frame.
#[derive(Debug, PartialEq, Eq, Snafu)]
pub enum FrameError {
    /// A kind that the protocol does not have.
    #[snafu(display("a frame of unknown kind {kind}"))]
    UnknownKind {
        /// Its number.
        kind: u8,
    },
    /// The bytes that must be zero are not.
    #[snafu(display("a frame whose reserved bytes are not zero"))]
    Reserved,
    /// The length says more than [`MAX_FRAME`], or [`MAX_EXIT_FRAME`] for that kind.
    #[snafu(display("a frame of {length} bytes, which is longer than any of its kind may be"))]
    TooLarge {
        /// What it says.
        length: u32,
    },
    /// A kind that carries no data has some.
    #[snafu(display("a frame of kind {kind:?} with data"))]
    UnexpectedData {
        /// Which.
        kind: FrameKind,
    },
}

/// What stands before a frame's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the data is.
    pub kind: FrameKind,
    /// How many bytes of data follow: at most [`MAX_FRAME`].
    pub length: u32,
}

impl FrameHeader {
    /// The header of a frame with this much data. What is beyond [`MAX_FRAME`] belongs into further frames.
    #[must_use]
    pub fn new(kind: FrameKind, length: usize) -> Self {
        let length = u32::try_from(length.min(MAX_FRAME)).unwrap_or(u32::MAX);
        Self { kind, length }
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_SIZE] {
        let [a, b, c, d] = self.length.to_le_bytes();
        [self.kind as u8, 0, 0, 0, a, b, c, d]
    }

    /// Reads it, and refuses what the protocol does not allow.
    pub fn parse(bytes: [u8; FRAME_HEADER_SIZE]) -> Result<Self, FrameError> {
        let [kind, reserved @ .., a, b, c, d] = bytes;
        let kind = match kind {
            1 => FrameKind::Stdin,
            2 => FrameKind::StdinEnd,
            3 => FrameKind::Stdout,
            4 => FrameKind::Stderr,
            5 => FrameKind::Exit,
            6 => FrameKind::Detached,
            kind => return UnknownKindSnafu { kind }.fail(),
        };
        ensure!(reserved == [0; 3], ReservedSnafu);
        let length = u32::from_le_bytes([a, b, c, d]);
        let limit = if kind == FrameKind::Exit { MAX_EXIT_FRAME } else { MAX_FRAME };
        ensure!(length as usize <= limit, TooLargeSnafu { length });
        let carries_data = !matches!(kind, FrameKind::StdinEnd | FrameKind::Detached);
        ensure!(carries_data || length == 0, UnexpectedDataSnafu { kind });
        Ok(Self { kind, length })
    }

    /// How many bytes of data follow.
    #[must_use]
    pub fn data_length(self) -> usize {
        self.length as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_protocol_does_not_have_is_refused() {
        let parse = FrameHeader::parse;
        assert_eq!(parse([0; 8]), Err(FrameError::UnknownKind { kind: 0 }));
        assert_eq!(parse([7, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::UnknownKind { kind: 7 }));
        assert_eq!(parse([3, 0, 1, 0, 0, 0, 0, 0]), Err(FrameError::Reserved));
        assert_eq!(parse([3, 0, 0, 0, 1, 0, 1, 0]), Err(FrameError::TooLarge { length: 65537 }));
        assert_eq!(parse([5, 0, 0, 0, 1, 16, 0, 0]), Err(FrameError::TooLarge { length: 4097 }));
        assert_eq!(
            parse([2, 0, 0, 0, 1, 0, 0, 0]),
            Err(FrameError::UnexpectedData { kind: FrameKind::StdinEnd })
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_written_the_same_way(bytes: [u8; FRAME_HEADER_SIZE]) {
            if let Ok(header) = FrameHeader::parse(bytes) {
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_header_is_read_as_it_was_written(length in 0..=MAX_FRAME) {
            let header = FrameHeader::new(FrameKind::Stdout, length);
            prop_assert_eq!(FrameHeader::parse(header.to_bytes()), Ok(header));
        }
    }
}
