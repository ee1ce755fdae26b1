//! Completing words for a shell: its script runs `vmm` with a variable that says so, and is given what fits.
//!
//! Who presses a key does not wait: what asks a VM has a second, and then there is nothing to complete.

mod bash;
mod candidates;

use std::ffi::OsString;
use std::io;
use std::sync::OnceLock;

use clap::CommandFactory;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::{CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

/// Says to the executable that a shell asks for words.
const VARIABLE: &str = "VMM_COMPLETE";

const SHELLS: [&dyn EnvCompleter; 5] = [&bash::Bash, &Zsh, &Fish, &Elvish, &Powershell];

/// The words before the one that is completed.
static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();

/// Gives a shell what it asks for, if that is why we run. Its status is no failure's: the shell would show it.
pub(crate) fn run() -> bool {
    let Some(shell) = std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty()) else { return false };
    if shell != bash::NAME {
        // The shells that hand the words over as they are have them behind this.
        let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
        let _ = WORDS.set(words.collect());
    }
    let environment = CompleteEnv::with_factory(command).var(VARIABLE).shells(Shells(&SHELLS));
    let folder = std::env::current_dir().ok();
    let _ = environment.try_complete(std::env::args_os(), folder.as_deref());
    true
}

/// The names of the shells.
pub(crate) fn shells() -> Vec<&'static str> {
    SHELLS.iter().map(|shell| shell.name()).collect()
}

/// The script that a shell reads once. It calls the `vmm` that is then found on the path.
pub(crate) fn script(shell: &str) -> io::Result<String> {
    let mut script = Vec::new();
    if let Some(shell) = Shells(&SHELLS).completer(shell) {
        shell.write_registration(VARIABLE, "vmm", "vmm", "vmm", &mut script)?;
    }
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command line, whose arguments know what they can be.
fn command() -> clap::Command {
    let mut command = crate::Cli::command();
    // Commands make their arguments when they are needed.
    command.build();
    with_candidates(command, "")
}

fn with_candidates(command: clap::Command, above: &str) -> clap::Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|argument| match completer(above, &name, argument.get_id().as_str()) {
        Some(completer) => argument.add(completer),
        None => argument,
    });
    command.mut_subcommands(|below| with_candidates(below, &name))
}

/// What an argument can be, by the command that it is of, the one above that, and its name.
fn completer(above: &str, command: &str, argument: &str) -> Option<ArgValueCompleter> {
    Some(match (above, command, argument) {
        (_, "up" | "down" | "status" | "shell" | "destroy", "vm" | "vms") => {
            ArgValueCompleter::new(candidates::machines)
        }
        (_, "cp", "sources" | "target") | (_, "edit", "file") => ArgValueCompleter::new(candidates::places),
        ("snapshot", "restore" | "rm", "name") => ArgValueCompleter::new(candidates::snapshots),
        (_, "run", "image") => ArgValueCompleter::new(candidates::images_and_files),
        (_, _, "vm" | "vms") => ArgValueCompleter::new(candidates::vms),
        (_, _, "image" | "images") => ArgValueCompleter::new(candidates::images),
        (_, "attach", "process") => ArgValueCompleter::new(candidates::running_processes),
        (_, _, "process") => ArgValueCompleter::new(candidates::processes),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_commands_that_are_made_late_know_what_they_can_be() {
        let mut command = command();
        for (above, below, argument) in [
            ("stop", None, "vms"),
            ("cp", None, "sources"),
            ("cp", None, "target"),
            ("snapshot", Some("restore"), "name"),
            ("logs", None, "process"),
        ] {
            let mut found = command.find_subcommand_mut(above).unwrap();
            if let Some(below) = below {
                found = found.find_subcommand_mut(below).unwrap();
            }
            let argument = found.get_arguments().find(|known| known.get_id() == argument).unwrap();
            assert!(argument.get::<ArgValueCompleter>().is_some(), "{above} {argument}");
        }
    }

    #[test]
    fn each_shell_has_a_script() {
        for shell in shells() {
            let script = script(shell).unwrap();
            assert!(script.contains(VARIABLE) && script.contains("vmm"), "{shell}");
        }
    }
}
