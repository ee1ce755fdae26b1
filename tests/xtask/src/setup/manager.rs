//! The package managers we can ask.

use std::process::Command;

use super::apt;
use super::tool::Tool;
use crate::command;
use crate::failure::{Failure, Outcome};

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// Debian, Ubuntu and their kin.
    Apt,
    /// Fedora and its kin.
    Dnf,
    /// Arch and its kin.
    Pacman,
    /// macOS.
    Brew,
}

impl Manager {
    /// The one that this machine is managed with.
    pub(crate) fn of_this_machine() -> Option<Self> {
        // Homebrew runs on Linux too, beside the system's own: it is asked last.
        let known =
            [("apt-get", Self::Apt), ("dnf", Self::Dnf), ("pacman", Self::Pacman), ("brew", Self::Brew)];
        known.into_iter().find(|(program, _)| command::exists(program)).map(|(_, manager)| manager)
    }

    /// Installs what holds the tools.
    pub(crate) fn install(self, tools: &[Tool]) -> Outcome {
        let packages: Vec<&str> = tools.iter().flat_map(|tool| tool.packages(self)).copied().collect();
        match self {
            Self::Apt => apt::install(tools),
            Self::Dnf => command::quietly(as_root("dnf")?.args(["install", "-y"]).args(packages)),
            Self::Pacman => {
                command::quietly(as_root("pacman")?.args(["-S", "--needed", "--noconfirm"]).args(packages))
            }
            Self::Brew => command::quietly(Command::new("brew").arg("install").args(packages)),
        }
    }
}

/// The command, with `sudo` where we are not root ourselves.
pub(super) fn as_root(program: &str) -> Outcome<Command> {
    let user = command::output("id", &["-u"]).unwrap_or_default();
    if user.trim() == "0" {
        return Ok(Command::new(program));
    }
    if !command::exists("sudo") {
        return Err(Failure::new(format!("`{program}` must run as root, and there is no sudo here"))
            .hint("Run the same command as root, or install sudo."));
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}
