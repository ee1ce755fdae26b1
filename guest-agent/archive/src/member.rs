//! What an archive says of one member.

use vmm_sys::beneath::Node;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name as it stands there: anything.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions, with the set-id bits and the sticky one.
    pub mode: u32,
    /// Whose it is, by number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// When its contents were changed last.
    pub modified: Time,
    /// Its extended attributes.
    pub attributes: Vec<Attribute>,
    /// How long a file is, with its holes.
    pub length: u64,
    /// The pieces of a file that are in the archive, one behind the other; what lies between them is zero.
    pub pieces: Vec<Piece>,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, and where it leads.
    SymbolicLink(Vec<u8>),
    /// Another name of a member that came before, and that member's name.
    HardLink(Vec<u8>),
    /// A device or a pipe.
    Node(Node),
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name, as in `user.comment`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A time since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// And so many nanoseconds, fewer than a second.
    pub nanoseconds: u32,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it belongs in the file.
    pub at: u64,
    /// How long it is.
    pub length: u64,
}
