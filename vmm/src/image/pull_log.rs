//! `images/pull.log`: a line for every pull, for people who wonder what came from where.
//!
//! It is bounded, and no more than a help: a pull does not fail because it cannot be logged.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vmm_sys::FileLock;

use super::error::ImageError;
use super::files;
use super::pull::now_ms;

/// The length above which the older half is dropped.
const LONGEST: u64 = 1 << 20;

/// What became of a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It was here already.
    Cached,
    /// It was fetched, and is an image now.
    Pulled,
    /// It was fetched, and is kept for a later pull.
    Downloaded,
    /// Its user gave it up.
    Cancelled,
    /// It failed.
    Failed,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// When it ended, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) image: String,
    pub(super) arch: String,
    pub(super) outcome: Outcome,
    /// What it was made from.
    pub(super) from: Vec<String>,
    /// How many bytes those have.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) error: Option<String>,
}

/// What a pull took, while it is at work.
#[derive(Debug)]
pub(super) struct Account {
    began: Instant,
    pub(super) from: Vec<String>,
    pub(super) bytes: u64,
}

impl Account {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), from: Vec::new(), bytes: 0 }
    }

    /// Something was taken from there.
    pub(super) fn add(&mut self, from: String, bytes: u64) {
        self.from.push(from);
        self.bytes += bytes;
    }

    /// The line, now that the pull has ended.
    pub(super) fn close(self, image: &str, arch: &str, ended: Result<Outcome, &ImageError>) -> Entry {
        let (outcome, error) = match ended {
            Ok(outcome) => (outcome, None),
            Err(ImageError::Cancelled { .. }) => (Outcome::Cancelled, None),
            Err(error) => (Outcome::Failed, Some(error.to_string())),
        };
        Entry {
            at_ms: now_ms(),
            image: image.to_owned(),
            arch: arch.to_owned(),
            outcome,
            from: self.from,
            bytes: self.bytes,
            seconds: (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            error,
        }
    }
}

/// Adds a line to the log in a folder.
pub(super) fn append(folder: &Path, entry: &Entry) {
    let path = folder.join(NAME);
    if let Err(error) = append_bounded(folder, &path, entry, LONGEST) {
        tracing::warn!(path = %path.display(), %error, "a pull cannot be logged");
    }
}

/// The log's name.
pub(super) const NAME: &str = "pull.log";

fn append_bounded(folder: &Path, path: &Path, entry: &Entry, longest: u64) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    // Of two pulls that end at once, neither must lose the other's line.
    let _lock = FileLock::exclusive(&folder.join(".pull.log.lock"))?;
    let mut log = File::options().append(true).create(true).mode(0o600).open(path)?;
    log.write_all(&line)?;
    let length = log.metadata()?.len();
    if length > longest {
        let text = std::fs::read(path)?;
        let half = text.len() / 2;
        let start = text[half..].iter().position(|byte| *byte == b'\n').map_or(half, |at| half + at + 1);
        let partial = files::partial_of(path);
        let mut shorter =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        shorter.write_all(&text[start..])?;
        std::fs::rename(&partial, path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_lines_and_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let entry =
            |number: usize| Account::new().close(&format!("image-{number}"), "arm64", Ok(Outcome::Cached));
        for number in 0..100 {
            append_bounded(folder.path(), &path, &entry(number), 2000).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 2000);
        let lines: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() > 3);
        assert_eq!(lines.last().unwrap().image, "image-99");
        assert_eq!(lines[lines.len() - 2].image, "image-98");
    }
}
