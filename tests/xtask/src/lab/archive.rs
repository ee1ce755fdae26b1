//! The archive format of initial file systems: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes an archive, entry by entry. Folders come before what is in them.
pub(super) struct Archive<W> {
    output: W,
    length: usize,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, length: 0, entries: 0 }
    }

    pub(super) fn folder(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(name, FOLDER | permissions, (0, 0), &[])
    }

    pub(super) fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | permissions, (0, 0), contents)
    }

    pub(super) fn character_device(&mut self, name: &str, device: (u32, u32)) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, device, &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.output.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> io::Result<()> {
        let length = |length: usize| {
            u32::try_from(length).map_err(|_| io::Error::other(format!("{name} is too large for cpio")))
        };
        self.entries += 1;
        // Inode, mode, owner, group, links, time, length, the device it is on, the device it is, name, checksum.
        let (contents_length, name_length) = (length(contents.len())?, length(name.len() + 1)?);
        let fields =
            [self.entries, mode, 0, 0, 1, 0, contents_length, 0, 0, device.0, device.1, name_length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.write_padded(header.as_bytes())?;
        self.write_padded(contents)
    }

    /// Writes, and zeros up to a multiple of four.
    fn write_padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.length += bytes.len();
        let zeros = self.length.next_multiple_of(4) - self.length;
        self.length += zeros;
        self.output.write_all([0; 4].get(..zeros).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_a_header_a_name_and_contents_for_each_entry() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.folder("lab", 0o755).unwrap();
        archive.file("lab/word", 0o600, b"hello").unwrap();
        archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("07070100000001000041ed"), "{text:?}");
        assert!(text.contains(&["lab/word\0\0hello\0\0\0", "070701"].concat()), "{text:?}");
        assert_eq!(text.matches("070701").count(), 3);
    }
}
