//! One file per command.

mod balloon;
mod clone;
mod commit;
mod compact;
mod completion;
mod destroy;
mod disk;
mod doctor;
mod down;
mod exec;
mod flatten;
mod images;
mod init;
pub(crate) mod internal;
mod kill;
mod logs;
mod project;
mod ps;
mod pull;
mod rm;
mod run;
mod shell;
mod snapshot;
mod start;
mod status;
mod stop;
mod up;
mod version;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use crate::error::Failure;
use crate::values;

#[derive(Subcommand)]
pub(crate) enum Command {
    Run(run::Run),
    Exec(exec::Exec),
    #[command(visible_alias = "list")]
    Ps(ps::Ps),
    Start(start::Start),
    Stop(stop::Stop),
    Kill(kill::Kill),
    Rm(rm::Rm),
    Clone(clone::Clone),
    Commit(commit::Commit),
    Snapshot(snapshot::Snapshot),
    Flatten(flatten::Flatten),
    Compact(compact::Compact),
    Disk(disk::Disk),
    Logs(logs::Logs),
    Balloon(balloon::Balloon),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Shell(shell::Shell),
    Destroy(destroy::Destroy),
    Init(init::Init),
    Pull(pull::Pull),
    #[command(visible_alias = "image")]
    Images(images::Images),
    Doctor(doctor::Doctor),
    Version(version::Version),
    Completion(completion::Completion),
}

impl Command {
    pub(crate) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        match self {
            Self::Run(command) => command.run(quiet),
            Self::Exec(command) => command.run(),
            Self::Ps(command) => command.run(),
            Self::Start(command) => command.run(quiet),
            Self::Stop(command) => command.run(),
            Self::Kill(command) => command.run(),
            Self::Rm(command) => command.run(),
            Self::Clone(command) => command.run(),
            Self::Commit(command) => command.run(quiet),
            Self::Snapshot(command) => command.run(),
            Self::Flatten(command) => command.run(),
            Self::Compact(command) => command.run(),
            Self::Disk(command) => command.run(),
            Self::Logs(command) => command.run(),
            Self::Balloon(command) => command.run(),
            Self::Up(command) => command.run(quiet),
            Self::Down(command) => command.run(quiet),
            Self::Status(command) => command.run(),
            Self::Shell(command) => command.run(),
            Self::Destroy(command) => command.run(quiet),
            Self::Init(command) => command.run(),
            Self::Pull(command) => command.run(quiet),
            Self::Images(command) => command.run(quiet),
            Self::Doctor(command) => command.run(),
            Self::Version(command) => command.run(),
            Self::Completion(command) => command.run(),
        }
    }
}

/// Prints data for scripts.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::usage(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Prints text; a reader that has gone away is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints rows below a heading.
fn print_table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut text = Vec::new();
    crate::table::write(&mut text, heading, rows)?;
    print(&String::from_utf8_lossy(&text))
}

/// Says how long a guest stood still, if it did, to who looks on.
fn tell_frozen(vm: &str, frozen: Option<Duration>) {
    if let (Some(frozen), true) = (frozen, std::io::stderr().is_terminal()) {
        let text = format!("{vm} stood still for {} ms\n", values::milliseconds(frozen));
        // Nobody needs to know it.
        let _ = std::io::stderr().write_all(crate::sanitise::text(&text).as_bytes());
    }
}

/// Does something to each of several VMs or images; a failure is told and the rest still done.
fn for_each(names: &[String], mut action: impl FnMut(&str) -> Result<(), Failure>) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        if let Err(failure) = action(name) {
            status = failure.report();
        }
    }
    status
}
