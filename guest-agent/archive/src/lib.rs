//! Trees of files as tar archives, packed and unpacked: the same on the host and in the guest.
//!
//! What is packed is in the format of POSIX (pax), with extended attributes and holes as GNU tar writes them. What is
//! unpacked may come from any tar, and from an enemy: names lead nowhere but beneath the target, whatever links the
//! archive or anybody else makes meanwhile; memory grows with neither lengths nor counts that the archive tells.

mod beneath;
mod error;
mod header;
mod member;
mod pack;
mod pax;
mod place;
mod reader;
mod sparse;
mod temporary;
mod unpack;

pub use error::{Error, Failure};
pub use header::{BLOCK, is_tar};
pub use member::{Attribute, Kind, Member, Piece, Time};
pub use pack::{PackOptions, Packed, Packer, root_name};
pub use place::{Holds, Place};
pub use reader::{Input, Reader, Streamed};
pub use unpack::{Owner, UnpackOptions, Unpacked, Unpacker, unpack};

/// No name and no target of a link is longer (`PATH_MAX`).
pub const LONGEST_NAME: usize = 4096;

/// What an archive may say of a member beside its header, at most: two names and its extended attributes.
const LONGEST_NOTE: u64 = 1 << 20;

/// No file has more pieces between holes; where one does, what lies behind them is packed as it reads.
pub const MOST_PIECES: usize = 1 << 20;
