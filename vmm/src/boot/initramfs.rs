//! The initial file system of a machine: our agent as `/init`, and the modules that it loads.
//!
//! ```text
//! /init                     the agent
//! /dev/console              what the kernel opens as the agent's standard streams
//! /vmm/modules              one line per module, in load order: <stage> <file name>
//! /vmm/modules.d/<name>     the modules, not compressed
//! ```
//!
//! The guest unpacks every byte of it, perhaps on an emulated processor: what the root file system has is not in it.

use std::fmt;
use std::io::{self, Write};

use snafu::{ResultExt, Snafu, ensure};

use super::cpio::Archive;

/// The folders, in the order in which they are made.
const FOLDERS: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "newroot", "vmm", "vmm/modules.d"];

/// QEMU's microvm puts an initial file system as far up in memory as whole pages go, over the ACPI tables that its
/// firmware put at the very end a moment before. So the file ends one byte into its last page, and the rest of it is left
/// to the tables: 4095 bytes, of which 24 devices and 64 processors take less than 3000. A kernel whose tables were
/// overwritten reads lengths from what lies there, and hangs.
const PAGE: u64 = 4096;
const INTO_LAST_PAGE: u64 = 1;

/// `/dev/console` (Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

/// When the agent loads a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// First: what it takes to talk to the host.
    Vsock,
    /// Then: what it takes to mount the root file system.
    Root,
    /// Before the machine is ready: what its commands expect. It does without one that cannot be loaded.
    Ready,
    /// When the machine is ready: everything else.
    Late,
}

/// Why an initial file system cannot be made.
#[derive(Debug, Snafu)]
pub enum InitramfsError {
    /// A name with which the list of modules could not be read back.
    #[snafu(display("{name:?} cannot be the file name of a module"))]
    Name {
        /// The name.
        name: String,
    },
    /// The file cannot be written.
    #[snafu(display("cannot write it"))]
    Write {
        /// Why not.
        source: io::Error,
    },
}

/// An initial file system in the making.
#[derive(Clone, Debug)]
pub struct Initramfs<'a> {
    agent: &'a [u8],
    modules: Vec<(Stage, String, Vec<u8>)>,
}

impl<'a> Initramfs<'a> {
    /// The layout's version: another one is another file, though agent and modules are the same.
    pub const LAYOUT: u32 = 2;

    /// One with this agent, and no modules yet.
    pub fn new(agent: &'a [u8]) -> Self {
        Self { agent, modules: Vec::new() }
    }

    /// Adds a module behind those that are there.
    pub fn add_module(
        &mut self,
        stage: Stage,
        file_name: &str,
        contents: Vec<u8>,
    ) -> Result<(), InitramfsError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
        let valid = !file_name.starts_with('.') && !file_name.is_empty() && file_name.bytes().all(plain);
        let fresh = self.modules.iter().all(|(_, name, _)| name != file_name);
        ensure!(valid && fresh, NameSnafu { name: file_name });
        self.modules.push((stage, file_name.to_owned(), contents));
        Ok(())
    }

    /// Writes it: a cpio archive, not compressed, always the same bytes for the same contents.
    pub fn write(&self, output: impl Write) -> Result<(), InitramfsError> {
        self.write_archive(output).context(WriteSnafu)
    }

    fn write_archive(&self, output: impl Write) -> io::Result<()> {
        let mut archive = Archive::new(output);
        for folder in FOLDERS {
            archive.folder(folder, 0o755)?;
        }
        archive.character_device("dev/console", 0o600, CONSOLE)?;
        archive.file("init", 0o755, self.agent)?;
        let list: String = self.modules.iter().map(|(stage, name, _)| format!("{stage} {name}\n")).collect();
        archive.file("vmm/modules", 0o644, list.as_bytes())?;
        for (_, name, contents) in &self.modules {
            archive.file(&format!("vmm/modules.d/{name}"), 0o644, contents)?;
        }
        archive.finish(INTO_LAST_PAGE, PAGE)?;
        Ok(())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vsock => "vsock",
            Self::Root => "root",
            Self::Ready => "ready",
            Self::Late => "late",
        })
    }
}

#[cfg(test)]
mod tests;
