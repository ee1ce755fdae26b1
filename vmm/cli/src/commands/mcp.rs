//! `vmm mcp`: sandboxes for agents, by the Model Context Protocol over standard input and output.
//!
//! Nothing but the protocol is written to standard output. The sandboxes are this process's own: they end with it,
//! however it ends.

mod arguments;
mod calls;
mod lines;
mod message;
mod sandboxes;
mod server;
#[cfg(test)]
mod tests;
mod tools;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{CancelToken, EngineChoice, Home, MemorySize};

use crate::error::Failure;
use crate::signals::SignalForwarder;
use crate::values;

use self::sandboxes::{Limits, Sandboxes};

#[derive(Args)]
#[command(after_help = "Examples:
  claude mcp add sandbox -- vmm mcp
  vmm mcp --max-sandboxes 2 --max-memory 512M --max-timeout 1m
  vmm mcp --image alpine:3.23 --image my-tools")]
pub(crate) struct Mcp {
    /// An image that sandboxes may be made from; the first one is for those who ask for none
    #[arg(long = "image", value_name = "IMAGE", default_value = "alpine", value_parser = image)]
    images: Vec<String>,
    /// How many sandboxes there may be at once
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_sandboxes: u16,
    /// The most memory that a sandbox can have
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    max_memory: MemorySize,
    /// The most processors that a sandbox can have
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    max_cpus: u8,
    /// How long a command may run; also of those that ask for no time
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = values::duration)]
    max_timeout: Duration,
    /// How much is told of each output of a command, and how long a file may be that is read
    #[arg(long, default_value = "64K", value_name = "SIZE", value_parser = output)]
    max_output: usize,
    /// What runs the sandboxes' processors: auto, kvm, hvf or software
    #[arg(long, default_value_t, value_name = "ENGINE", env = "VMM_ENGINE")]
    engine: EngineChoice,
    /// Refuse an engine that is no hardware boundary
    #[arg(long)]
    require_hardware: bool,
}

impl Mcp {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let stop = CancelToken::new()?;
        let _signals = SignalForwarder::install(&stop)?;
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let limits = Limits {
            images: self.images,
            sandboxes: usize::from(self.max_sandboxes),
            memory: self.max_memory,
            cpus: self.max_cpus,
            timeout: self.max_timeout,
            output: self.max_output,
            engine: self.engine,
            require_hardware: self.require_hardware,
        };
        let sandboxes = Sandboxes::new(home, std::env::current_exe()?, limits);
        server::serve(&sandboxes, &stop)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An image by its name: whoever asks for one over the protocol must not choose files of this machine's.
fn image(text: &str) -> Result<String, String> {
    text.parse::<vmm::image::ImageRef>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn output(text: &str) -> Result<usize, String> {
    let bytes = values::bytes(text)?;
    match usize::try_from(bytes) {
        Ok(bytes) if (1..=LARGEST_OUTPUT).contains(&bytes) => Ok(bytes),
        _ => Err(format!("it is between 1K and {}M", LARGEST_OUTPUT >> 20)),
    }
}

/// What is told in one line is held in memory several times over.
const LARGEST_OUTPUT: usize = 16 << 20;
