//! The agent's program for a guest, by the guest's architecture.

use std::borrow::Cow;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use snafu::{ResultExt, Snafu};

use crate::arch::Arch;

/// The agent for our own architecture, as `build.rs` built it. Empty where it could not be.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmm-agent"));

/// The variable that names a folder with agents. What lies there goes before what is embedded.
pub const AGENT_DIR_VARIABLE: &str = "VMM_AGENT_DIR";

/// Why there is no agent for a guest.
#[derive(Debug, Snafu)]
pub enum BinaryError {
    /// None is embedded, and none was found.
    #[snafu(display(
        "this program has no guest agent for {arch}: put `{}` beside it, or into the folder that {AGENT_DIR_VARIABLE} \
         names",
        file_name(*arch)
    ))]
    Missing {
        /// The guest's architecture.
        arch: Arch,
    },
    /// One was found and cannot be read.
    #[snafu(display("read the guest agent {}", path.display()))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The agent for guests of an architecture: from the folder named by `VMM_AGENT_DIR`, else the embedded one, else
/// from beside this program's file.
pub fn binary(arch: Arch) -> Result<Cow<'static, [u8]>, BinaryError> {
    let named = env::var_os(AGENT_DIR_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    if let Some(agent) = named.map_or(Ok(None), |folder| read(&folder, arch))? {
        return Ok(agent);
    }
    if Arch::host() == Some(arch) && !EMBEDDED.is_empty() {
        return Ok(Cow::Borrowed(EMBEDDED));
    }
    let program = env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent);
    beside.map_or(Ok(None), |folder| read(folder, arch))?.ok_or(BinaryError::Missing { arch })
}

fn read(folder: &Path, arch: Arch) -> Result<Option<Cow<'static, [u8]>>, BinaryError> {
    let path = folder.join(file_name(arch));
    match fs::read(&path) {
        Ok(agent) => Ok(Some(Cow::Owned(agent))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source).context(ReadSnafu { path }),
    }
}

fn file_name(arch: Arch) -> String {
    format!("vmm-agent-{arch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_of_our_own_architecture_is_a_static_elf_file() {
        let agent = binary(Arch::host().unwrap()).unwrap();
        assert_eq!(&agent[..4], b"\x7fELF");
        // No program header asks for a dynamic loader (PT_INTERP): it runs in any root file system.
        let number = |at: usize, size: usize| {
            agent[at..at + size].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
        };
        let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
        assert!(count > 0);
        assert!((0..count).all(|index| number(table + index * size, 4) != 3));
    }
}
