//! `vmm attach`: back to a command that runs in a VM.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, Home, ProcessId, Sandbox};

use crate::error::Failure;
use crate::sanitise::say;
use crate::session::{self, Streams};
use crate::signals::SignalForwarder;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm exec -d box -- make all     prints 7
  vmm attach box 7")]
pub(crate) struct Attach {
    /// Pass standard input to the command, if it was started with an input
    #[arg(short, long)]
    interactive: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
    /// The command's id: `vmm exec -d` printed it, and `vmm processes` lists it
    process: u64,
}

impl Attach {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let process = sandbox.attach_process(ProcessId(self.process))?;
        let terminal = process.is_terminal();
        // A terminal belongs to whoever sits before it.
        let interactive = self.interactive || (terminal && io::stdin().is_terminal());
        let streams = Streams { interactive, terminal }.check()?;
        if interactive && terminal {
            say("vmm: Ctrl-] leaves the command running");
        }
        let signals = SignalForwarder::install(&CancelToken::new()?)?;
        if let Some(size) = streams.terminal_size() {
            process.resize(size)?;
        }
        session::join(process, streams, &signals, true)
    }
}
