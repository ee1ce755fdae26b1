//! What of a suite is done, kept in a file that is the summary too: a line for each piece, for one state of the code.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command;
use crate::failure::{Failure, Outcome};
use crate::project;

/// The pieces that are done.
pub(super) struct Progress {
    path: PathBuf,
    /// What the code was: the summary of another one is no progress.
    code: String,
    lines: Vec<(String, bool, String)>,
}

impl Progress {
    /// Reads what an earlier run left, if the code is the same.
    pub(super) fn open(suite: &str) -> Outcome<Self> {
        let folder = project::target().join("soak");
        fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", folder.display())))?;
        Ok(Self::read(&folder.join(format!("{suite}.txt")), &code()))
    }

    fn read(path: &Path, code: &str) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let same = lines.next().is_some_and(|line| line == first_line(code));
        let piece = |line: &str| {
            let (word, rest) = line.split_once(' ')?;
            let (piece, _) = rest.trim_start().split_once(": ")?;
            Some((piece.to_owned(), word == "ok", line.to_owned()))
        };
        let lines = if same { lines.filter_map(piece).collect() } else { Vec::new() };
        Self { path: path.to_owned(), code: code.to_owned(), lines }
    }

    /// Whether the piece was done and succeeded: one that failed is tried again.
    pub(super) fn is_done(&self, piece: &str) -> bool {
        self.lines.iter().any(|(name, ok, _)| name == piece && *ok)
    }

    /// How many pieces are done.
    pub(super) fn done(&self) -> usize {
        self.lines.iter().filter(|(_, ok, _)| *ok).count()
    }

    /// Notes the outcome of a piece, at once in the file.
    pub(super) fn record(&mut self, piece: &str, ok: bool, line: &str) {
        self.lines.retain(|(name, _, _)| name != piece);
        // Only the first line of a failure: the rest is on the terminal.
        let line = line.lines().next().unwrap_or_default();
        self.lines.push((piece.to_owned(), ok, line.to_owned()));
        let mut text = first_line(&self.code);
        for (_, _, line) in &self.lines {
            text.push('\n');
            text.push_str(line);
        }
        text.push('\n');
        if let Err(error) = fs::write(&self.path, text) {
            eprintln!("cannot write {}: {error}", self.path.display());
        }
    }

    /// The file with the summary.
    pub(super) fn summary_path(&self) -> &Path {
        &self.path
    }
}

fn first_line(code: &str) -> String {
    format!("code {code}")
}

/// The commit, and a mark where the work tree differs from it.
fn code() -> String {
    let root = project::root();
    let root = root.to_string_lossy();
    let commit = command::output("git", &["-C", &root, "rev-parse", "HEAD"]).unwrap_or_default();
    let changes = command::output("git", &["-C", &root, "status", "--porcelain"]).unwrap_or_default();
    format!("{}{}", commit.trim(), if changes.is_empty() { "" } else { " with changes" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_succeeded_is_done_until_the_code_changes() {
        let path = std::env::temp_dir().join(format!("vmm-soak-progress-{}", std::process::id()));
        let mut progress = Progress::read(&path, "abc");
        progress.record("one", true, "ok   one: fine (1.0 s)");
        progress.record("two", false, "FAIL two: error: no\nmore (1.0 s)");
        let again = Progress::read(&path, "abc");
        assert!(again.is_done("one") && !again.is_done("two") && again.done() == 1);
        assert_eq!(Progress::read(&path, "def").done(), 0);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "code abc\nok   one: fine (1.0 s)\nFAIL two: error: no\n");
        fs::remove_file(&path).unwrap();
    }
}
