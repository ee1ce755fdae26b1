//! What the guest's kernel said.

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// No line of a kernel's is longer (`LOG_LINE_MAX` of Linux is 1024 less its prefix), each byte escaped as `\xff`.
const MAX_LINE: usize = 4096;

/// A line of the kernel's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// When it was said: microseconds on the guest's monotonic clock. The first lines are older than that clock.
    pub at_us: i64,
    /// How urgent it is: 0 is a system that cannot be used, 7 is for debugging.
    pub level: u8,
    /// The words. What is not printable in them is escaped by the kernel.
    pub text: ByteString,
}

impl KernelRecord {
    /// Whether it is no longer than it may be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.level <= 7 && self.text.as_bytes().len() <= MAX_LINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_is_not_sound() {
        let record = KernelRecord { at_us: -3, level: 7, text: "calling  acpi_init+0x0/0x7b0 @ 1".into() };
        assert!(record.is_sound());
        assert!(!KernelRecord { level: 8, ..record.clone() }.is_sound());
        assert!(!KernelRecord { text: "x".repeat(MAX_LINE + 1).as_str().into(), ..record }.is_sound());
    }
}
