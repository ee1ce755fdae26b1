//! The archive format of initial file systems: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Nothing in it depends on the time, the machine or the user: the same contents give the same bytes.

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The archive ends with an entry of this name.
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive, entry by entry. Folders come before what is in them.
pub(super) struct Archive<W> {
    output: W,
    length: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, length: 0, entries: 0 }
    }

    pub(super) fn folder(&mut self, name: &str, permissions: u32) -> io::Result<()> {
        self.entry(name, FOLDER | permissions, 2, (0, 0), &[])
    }

    pub(super) fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | permissions, 1, (0, 0), contents)
    }

    pub(super) fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        device: (u32, u32),
    ) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE | permissions, 1, device, &[])
    }

    /// Ends the archive with zeros, which its reader passes over, until `into_block` bytes lie in its last block of so
    /// many `bytes`; and gives back what it was written to.
    pub(super) fn finish(mut self, into_block: u64, bytes: u64) -> io::Result<W> {
        self.entry(TRAILER, 0, 1, (0, 0), &[])?;
        while self.length % bytes != into_block {
            self.write(&[0])?;
        }
        self.output.flush()?;
        Ok(self.output)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> io::Result<()> {
        let too_long = |_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is too large for a cpio archive"))
        };
        let length = u32::try_from(contents.len()).map_err(too_long)?;
        let name_length = u32::try_from(name.len() + 1).map_err(too_long)?;
        self.entries += 1;
        // Inode, mode, owner, group, links, time, length, the device it is on, the device it is, name, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, device.0, device.1, name_length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad(4)?;
        self.write(contents)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.output.write_all(bytes)
    }

    fn pad(&mut self, multiple: u64) -> io::Result<()> {
        while !self.length.is_multiple_of(multiple) {
            self.write(&[0])?;
        }
        Ok(())
    }
}
