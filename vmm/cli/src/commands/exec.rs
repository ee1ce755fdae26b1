//! `vmm exec`: a command in a VM that runs.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{CancelToken, Home, Sandbox};

use super::run::CommandOptions;
use super::{print, print_json};
use crate::error::Failure;
use crate::session::{self, Streams};
use crate::signals::SignalForwarder;
use crate::{terminal, values};

#[derive(Args)]
#[command(after_help = "Examples:
  vmm exec box -- uname -a
  vmm exec -it box -- sh
  vmm exec -i box -- sha256sum < file
  vmm exec -d box -- sleep 1000")]
pub(crate) struct Exec {
    /// Pass standard input to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave the command running in the background and print its id
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Print JSON
    #[arg(long, requires = "detach")]
    json: bool,
    /// Set a variable; a bare KEY takes its value from here
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = values::environment)]
    env: Vec<(String, String)>,
    /// Folder in the guest that the command starts in
    #[arg(long, short, value_name = "FOLDER")]
    workdir: Option<String>,
    /// User in the guest, as name or number, perhaps with :group
    #[arg(long, short)]
    user: Option<String>,
    /// End the command after so long, with status 124
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// The VM's name, id or the beginning of its id
    vm: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.detach && self.command.is_empty() {
            return Err(Failure::usage("-d needs a command to leave running"));
        }
        let shell = self.command.is_empty();
        let streams = Streams {
            interactive: self.interactive || shell,
            terminal: self.tty || (shell && terminal::is_interactive()),
        };
        let streams = streams.check()?;
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let options = CommandOptions {
            env: &self.env,
            workdir: self.workdir.as_deref(),
            user: self.user.as_deref(),
            timeout: self.timeout,
        };
        let command = options.command(&sandbox, &self.command, streams);
        if self.detach {
            let process = command.start_detached()?;
            if self.json {
                print_json(&serde_json::json!({ "process": process }))?;
            } else {
                print(&format!("{process}\n"))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let process = command.spawn()?;
        // Until the command runs a signal simply ends us: nothing is there yet that could be left behind.
        let signals = SignalForwarder::install(&CancelToken::new()?)?;
        session::join(process, streams, &signals, false)
    }
}
