//! The machine's console: the last resort when something is wrong, since every byte on it is slow.

use std::io::Write;

/// Writes a line that says whose it is.
pub(crate) fn line(text: &str) {
    // One write, so that lines of the kernel do not come between.
    let _ = std::io::stderr().write_all(format!("vmm-agent: {text}\n").as_bytes());
}
