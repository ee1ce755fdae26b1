//! `vmm processes`: the commands that were started in a VM.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use vmm::{ExitStatus, Home, ProcessInfo, Sandbox};

use super::{print_json, print_table};
use crate::error::Failure;
use crate::table;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm exec -d box -- make all     prints 7
  vmm processes box
  vmm attach box 7                its output, from now on
  vmm wait box --process 7        its status")]
pub(crate) struct Processes {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
}

impl Processes {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let processes = sandbox.processes()?;
        if self.json {
            print_json(&processes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let uptime = sandbox.health()?.uptime_ms;
        let rows: Vec<_> = processes
            .iter()
            .map(|process| {
                vec![
                    process.process.to_string(),
                    process.pid.to_string(),
                    process.uid.to_string(),
                    table::age(Duration::from_millis(uptime.saturating_sub(process.started_ms))),
                    state(process),
                    command(process),
                ]
            })
            .collect();
        print_table(&["ID", "PID", "UID", "AGE", "STATE", "COMMAND"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn state(process: &ProcessInfo) -> String {
    match process.exit {
        Some(exit) => ExitStatus::from(exit).to_string(),
        None if process.attached => "running, attached".to_owned(),
        None => "running".to_owned(),
    }
}

/// Its words in one line, as far as they are kept.
fn command(process: &ProcessInfo) -> String {
    if process.argv.is_empty() {
        return "(login shell)".to_owned();
    }
    let words: Vec<_> = process.argv.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ").replace(char::is_control, "?")
}
