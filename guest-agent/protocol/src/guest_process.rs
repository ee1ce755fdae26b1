//! All processes of the guest, whoever started them. Since 1.3.

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// Of a long command so many words are told.
pub const MAX_WORDS: usize = 32;

/// And so many bytes of all of them.
pub const MAX_COMMAND: usize = 1024;

/// A process of the guest's, as its kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcess {
    /// Its number.
    pub pid: u32,
    /// That of the process it belongs to; 0 for the first ones.
    pub parent: u32,
    /// The number of the user that it runs as.
    pub uid: u32,
    /// That user's name, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<ByteString>,
    /// What it does, by the kernel's letter: `R` runs, `S` sleeps, `D` waits for a disk, `Z` has ended, `T` is stopped.
    pub state: String,
    /// The time that processors have worked for it.
    pub cpu_ms: u64,
    /// How much of one processor it took while it was looked at, in thousandths.
    pub cpu_permille: u32,
    /// Its memory that is really there, in bytes.
    pub memory: u64,
    /// When it started, on the guest's monotonic clock.
    pub started_ms: u64,
    /// The kernel's name for it.
    pub name: ByteString,
    /// Its command; a long one is cut. Threads of the kernel have none.
    pub argv: Vec<ByteString>,
}

impl GuestProcess {
    /// Whether it has no more text than it may have.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        /// No user's name is longer, nor the kernel's for a process.
        const LONGEST: usize = 256;
        let words: usize = self.argv.iter().map(|word| word.as_bytes().len()).sum();
        let user = self.user.as_ref().map_or(0, |user| user.as_bytes().len());
        let state = self.state.bytes().all(|letter| letter.is_ascii_alphabetic());
        self.argv.len() <= MAX_WORDS
            && words <= MAX_COMMAND
            && self.name.as_bytes().len().max(user) <= LONGEST
            && self.state.len() == 1
            && state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_novel_for_a_name_is_not_sound() {
        let process = GuestProcess {
            pid: 1,
            parent: 0,
            uid: 0,
            user: Some("root".into()),
            state: "S".into(),
            cpu_ms: 1,
            cpu_permille: 0,
            memory: 1,
            started_ms: 0,
            name: "init".into(),
            argv: vec!["/init".into()],
        };
        assert!(process.is_sound());
        let novel = ByteString::from("n".repeat(1025));
        assert!(!GuestProcess { name: novel.clone(), ..process.clone() }.is_sound());
        assert!(!GuestProcess { user: Some(novel.clone()), ..process.clone() }.is_sound());
        assert!(!GuestProcess { argv: vec![novel], ..process.clone() }.is_sound());
        assert!(!GuestProcess { argv: vec!["".into(); 33], ..process.clone() }.is_sound());
        for state in ["", "SS", "\u{1b}"] {
            assert!(!GuestProcess { state: state.into(), ..process.clone() }.is_sound());
        }
    }
}
