//! What a guest writes, made harmless for a terminal outside an interactive session.
//!
//! A terminal obeys escape sequences: they can rename its window, answer on the user's behalf or hide text. A file
//! or a pipe gets every byte as it is.

use std::io::{self, Write};

/// Passes text on, with control characters made visible (`^[` for escape) when it goes to a terminal.
pub(crate) struct Sanitiser<W> {
    inner: W,
    active: bool,
    /// The last byte was 0xC2, which may begin an 8-bit control character in UTF-8.
    pending_c1: bool,
}

impl<W: Write> Sanitiser<W> {
    /// Wraps an output; `active` when it is a terminal.
    pub(crate) fn new(inner: W, active: bool) -> Self {
        Self { inner, active, pending_c1: false }
    }

    fn clean(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut clean = Vec::with_capacity(bytes.len() + 16);
        for &byte in bytes {
            if std::mem::take(&mut self.pending_c1) {
                if (0x80..0xa0).contains(&byte) {
                    clean.extend_from_slice(b"^[");
                    clean.push(byte - 0x40);
                    continue;
                }
                clean.push(0xc2);
            }
            match byte {
                b'\n' | b'\t' | b'\r' | 0x08 => clean.push(byte),
                0xc2 => self.pending_c1 = true,
                0x00..0x20 | 0x7f => clean.extend_from_slice(&[b'^', byte ^ 0x40]),
                _ => clean.push(byte),
            }
        }
        clean
    }
}

impl<W: Write> Write for Sanitiser<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.active {
            return self.inner.write(bytes);
        }
        let clean = self.clean(bytes);
        self.inner.write_all(&clean)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A text of the guest's for a message on the terminal.
pub(crate) fn text(text: &str) -> String {
    let mut clean = Vec::new();
    let mut sanitiser = Sanitiser::new(&mut clean, true);
    // Writing into memory does not fail.
    let _ = sanitiser.write_all(text.as_bytes());
    String::from_utf8_lossy(&clean).into_owned()
}

/// Tells a person something beside what the command prints.
pub(crate) fn say(line: &str) {
    // A closed standard error is no reason to fail.
    let _ = writeln!(io::stderr(), "{}", text(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_escape_sequence() {
        assert_eq!(text("\x1b]0;owned\x07 ok\r\n"), "^[]0;owned^G ok\r\n");
        assert_eq!(text("\u{9b}2J caf\u{e9} \u{a0}x"), "^[[2J caf\u{e9} \u{a0}x");
    }

    #[test]
    fn a_control_character_cut_in_two_is_still_seen() {
        let mut out = Vec::new();
        let mut sanitiser = Sanitiser::new(&mut out, true);
        sanitiser.write_all(b"a\xc2").unwrap();
        sanitiser.write_all(b"\x9b2J").unwrap();
        assert_eq!(out, b"a^[[2J");
    }

    #[test]
    fn a_file_gets_every_byte() {
        let mut out = Vec::new();
        Sanitiser::new(&mut out, false).write_all(b"\x1b[0m\xc2").unwrap();
        assert_eq!(out, b"\x1b[0m\xc2");
    }
}
