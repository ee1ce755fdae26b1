//! Single files and folders of the guest: what is asked of them, and what is told of them. Since 1.3.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// No name of a file is longer (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// No path is longer (`PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// What is to be done with a file or folder. A path that is relative begins in root's home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRequest {
    /// Tell what it is: [`Reply::File`](crate::Reply::File).
    Stat {
        /// Which.
        path: ByteString,
        /// A symbolic link stands for what it leads to.
        #[serde(default)]
        follow: bool,
    },
    /// Tell what is in a folder: [`Reply::Entries`](crate::Reply::Entries) as often as there are more, then
    /// [`Reply::Done`](crate::Reply::Done).
    List {
        /// Which.
        path: ByteString,
    },
    /// Read a part of a file: [`Reply::Contents`](crate::Reply::Contents), then its bytes in pieces, as of an archive.
    Read {
        /// Which. Links are followed.
        path: ByteString,
        /// Where the part begins.
        #[serde(default)]
        offset: u64,
        /// How long it is at most.
        length: u64,
    },
    /// Remove it: [`Reply::Going`](crate::Reply::Going) now and then, at last [`Reply::Done`](crate::Reply::Done). Of a
    /// link the link itself.
    Remove {
        /// Which.
        path: ByteString,
        /// A folder is removed with all that is in it on its file system; it is refused otherwise.
        #[serde(default)]
        tree: bool,
    },
    /// Make a folder: [`Reply::Done`](crate::Reply::Done).
    MakeFolder {
        /// Which.
        path: ByteString,
        /// Those that it is in are made too, and one that is there is none the worse.
        #[serde(default)]
        parents: bool,
        /// The mode of what is made; 0755 when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Give it another name, and replace the file that has it, as `rename` does: [`Reply::Done`](crate::Reply::Done).
    Rename {
        /// Which.
        from: ByteString,
        /// The new name.
        to: ByteString,
    },
    /// Tell what changes: [`Reply::Watching`](crate::Reply::Watching), then [`Reply::Changes`](crate::Reply::Changes)
    /// until the client leaves.
    Watch {
        /// A folder, for what changes in it; or a file.
        path: ByteString,
        /// The folders in it too, those that are made later among them.
        #[serde(default)]
        recursive: bool,
    },
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// An ordinary file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    SymbolicLink,
    /// A device of blocks.
    BlockDevice,
    /// A device of characters.
    CharacterDevice,
    /// A pipe with a name.
    Pipe,
    /// A socket.
    Socket,
    /// A kind that a newer agent knows.
    #[serde(other)]
    Other,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::SymbolicLink => "symbolic link",
            Self::BlockDevice => "block device",
            Self::CharacterDevice => "character device",
            Self::Pipe => "pipe",
            Self::Socket => "socket",
            Self::Other => "other",
        })
    }
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileInfo {
    /// What it is.
    pub kind: FileKind,
    /// Its permissions, with the set-id and sticky bits: at most 0o7777.
    pub mode: u32,
    /// Its user's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Its length in bytes.
    pub length: u64,
    /// How many names it has.
    pub links: u64,
    /// When its contents were changed last, in seconds since 1970.
    pub modified: i64,
    /// And the nanoseconds of that second.
    #[serde(default)]
    pub modified_ns: u32,
    /// Its number on its file system.
    #[serde(default)]
    pub inode: u64,
    /// Where a symbolic link leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads_to: Option<ByteString>,
}

impl FileInfo {
    /// Whether it is what the system could say of a file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mode <= 0o7777
            && self.modified_ns < 1_000_000_000
            && self.leads_to.as_ref().is_none_or(|path| is_text(path.as_bytes(), MAX_PATH))
    }
}

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FolderEntry {
    /// Its name there.
    pub name: ByteString,
    /// What it is, a link itself.
    #[serde(flatten)]
    pub info: FileInfo,
}

impl FolderEntry {
    /// Whether it has a name that a file can have in a folder, and is what a file can be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        is_name(self.name.as_bytes()) && self.info.is_sound()
    }
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Change {
    /// How.
    pub what: ChangeKind,
    /// What, beneath what is watched; that itself when it is empty.
    #[serde(default)]
    pub path: ByteString,
}

/// How something has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was made, or came from elsewhere, or has this name now. It may have been told already.
    Created,
    /// It was written to.
    Modified,
    /// Whoever had it open to write has closed it.
    Closed,
    /// Its mode, owner, times or links have changed.
    Attributes,
    /// It was removed, or has another name now, with all that is in it.
    Removed,
    /// Changes were missed, for there were too many: whoever must know looks at everything again.
    Missed,
    /// A kind that a newer agent knows.
    #[serde(other)]
    Other,
}

impl Change {
    /// Whether its path leads beneath what is watched.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let path = self.path.as_bytes();
        path.is_empty() || (path.len() <= MAX_PATH && path.split(|byte| *byte == b'/').all(is_name))
    }
}

/// Whether a folder can have something of this name in it.
fn is_name(name: &[u8]) -> bool {
    is_text(name, MAX_NAME) && !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b".."
}

fn is_text(bytes: &[u8], limit: usize) -> bool {
    bytes.len() <= limit && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> FileInfo {
        FileInfo {
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            length: 7,
            links: 1,
            modified: -3,
            modified_ns: 5,
            inode: 9,
            leads_to: None,
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_not_sound() {
        let entry = |name: &[u8]| FolderEntry { name: name.into(), info: info() }.is_sound();
        for name in [&b"a"[..], b"...", b" ", b"\xff", b"-rf", &[b'n'; MAX_NAME]] {
            assert!(entry(name), "{name:?}");
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'n'; MAX_NAME + 1]] {
            assert!(!entry(name), "{name:?}");
        }
        let change = |path: &[u8]| Change { what: ChangeKind::Created, path: path.into() }.is_sound();
        assert!(change(b"") && change(b"a") && change(b"a/b"));
        for path in [&b"/a"[..], b"a/", b"a//b", b"../a", b"a/../b", b".", b"a\0b"] {
            assert!(!change(path), "{path:?}");
        }
    }

    #[test]
    fn what_no_file_has_is_not_sound() {
        assert!(info().is_sound());
        assert!(!FileInfo { mode: 0o100_644, ..info() }.is_sound());
        assert!(!FileInfo { modified_ns: 1_000_000_000, ..info() }.is_sound());
        assert!(!FileInfo { leads_to: Some("a\0".into()), ..info() }.is_sound());
    }

    #[test]
    fn an_entry_is_one_object() {
        let entry = FolderEntry { name: "a".into(), info: info() };
        let json = serde_json::to_string(&entry).unwrap();
        assert!(json.starts_with(r#"{"name":"a","kind":"file","mode":420,"#), "{json}");
        assert_eq!(serde_json::from_str::<FolderEntry>(&json).unwrap(), entry);
    }

    #[test]
    fn what_a_newer_agent_knows_is_taken() {
        assert_eq!(serde_json::from_str::<FileKind>("\"door\"").unwrap(), FileKind::Other);
        assert_eq!(serde_json::from_str::<ChangeKind>("\"dreamt\"").unwrap(), ChangeKind::Other);
    }
}
