//! The command line: parses, shows progress, prints. All it does is done by the library, and a program that embeds
//! the library can do the same.

mod commands;
mod complete;
mod error;
mod log;
mod progress;
mod sanitise;
mod session;
mod signals;
mod standard;
mod table;
mod terminal;
mod values;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use commands::Command;
use error::FAILED;

/// Virtual machines for running code in a sandbox.
#[derive(Parser)]
#[command(
    name = "vmm",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    max_term_width = 110,
    after_help = "Examples:
  vmm run alpine                            a shell in a new VM, gone when you leave it
  vmm run alpine -- sh -c 'echo hello'      one command, its output and its status
  vmm run -d --name box alpine              a VM that stays, with a disk that is kept
  vmm exec box -- uname -a                  a command in it
  vmm stop box && vmm start box             the disk is as it was
  vmm up && vmm shell                       the VM of this folder, as its vmm.toml says, or plain Alpine

Exit status: the command's own; 124 its time was up, 125 vmm itself failed, 126 not executable,
127 not found, 128 + n killed by signal n.

Files lie in VMM_HOME (default: ~/.local/share/vmm). vmm help topics lists what else there is to read."
)]
struct Cli {
    /// What to log to standard error: error, warn, info, debug or trace, or a filter such as vmm::monitor=debug
    #[arg(long, global = true, value_name = "LEVEL", env = "VMM_LOG", default_value = "error")]
    log_level: String,
    /// Show no progress and no notices
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let begun = Instant::now();
    // The hidden processes of a VM come first: they are on the path of every start, and read no other option.
    if let Some(status) = commands::internal::run() {
        return status;
    }
    if complete::run() {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed standard error changes nothing about the status.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = log::start(&cli.log_level).and_then(|()| cli.command.run(cli.quiet, begun));
    outcome.unwrap_or_else(|failure| failure.report())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// They print what a command in a guest writes, or text for people, or nothing.
    const WITHOUT_JSON: [&str; 10] =
        ["attach", "console", "cp", "shell", "completion", "man", "help", "edit", "mcp", "show"];

    #[test]
    fn every_command_that_prints_something_prints_json() {
        fn visit(command: &clap::Command, without: &mut Vec<String>) {
            let below: Vec<_> = command.get_subcommands().collect();
            let has_json = command.get_arguments().any(|argument| argument.get_id() == "json");
            if below.is_empty() && !has_json {
                without.push(command.get_name().to_owned());
            }
            below.into_iter().for_each(|command| visit(command, without));
        }
        let mut command = Cli::command();
        command.build();
        let mut without = Vec::new();
        visit(&command, &mut without);
        without.retain(|name| !WITHOUT_JSON.contains(&name.as_str()));
        assert_eq!(without, Vec::<String>::new());
    }
}
