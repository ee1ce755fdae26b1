//! `vmm shell`: a shell in a VM of a project.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, Home};

use super::project::WhichProject;
use super::run::CommandOptions;
use crate::error::Failure;
use crate::session::{self, Streams};
use crate::signals::SignalForwarder;
use crate::terminal;

#[derive(Args)]
pub(crate) struct Shell {
    #[command(flatten)]
    project: WhichProject,
    /// Folder in the guest that the shell starts in
    #[arg(long, short, value_name = "FOLDER")]
    workdir: Option<String>,
    /// User in the guest, as name or number, perhaps with :group
    #[arg(long, short)]
    user: Option<String>,
    /// The VM's name in the project, where that has several
    vm: Option<String>,
    /// Not for a shell: `vmm exec` runs a command
    #[arg(last = true, hide = true)]
    command: Vec<String>,
}

impl Shell {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let streams = Streams { interactive: true, terminal: terminal::is_interactive() };
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = self.project.open(&home)?.machine(self.vm.as_deref())?;
        if !self.command.is_empty() {
            let failure = Failure::usage("vmm shell opens a shell, and takes no command");
            let command = self.command.join(" ");
            return Err(failure.with_hint(format!("run it by: vmm exec {} -- {command}", sandbox.name())));
        }
        let options = CommandOptions {
            env: &[],
            workdir: self.workdir.as_deref(),
            user: self.user.as_deref(),
            timeout: None,
        };
        let shell = options.command(&sandbox, &[], streams).spawn()?;
        let signals = SignalForwarder::install(&CancelToken::new()?)?;
        session::join(shell, streams, &signals, false)
    }
}
