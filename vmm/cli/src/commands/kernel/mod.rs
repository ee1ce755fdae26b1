//! `vmm kernel`: kernels that are checked, built and chosen.

mod build;
mod check;
mod list;
mod rm;
mod select;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use vmm::Home;
use vmm::kernels::KernelStore;

use super::{print, print_json, print_table};
use crate::error::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm kernel check alpine
  vmm kernel build /usr/src/linux-source-6.12.tar.xz
  vmm kernel use fast alpine
  vmm run --kernel fast alpine -- uname -r")]
pub(crate) struct Kernel {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Build(build::Build),
    /// List the kernels that were built here
    #[command(visible_alias = "ls")]
    List(list::List),
    Use(select::Select),
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
}

impl Kernel {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Check(command) => command.run(),
            Command::Build(command) => command.run(quiet),
            Command::List(command) => command.run(),
            Command::Use(command) => command.run(),
            Command::Rm(command) => command.run(),
        }
    }
}

/// The home and its kernels.
fn open() -> Result<(Home, KernelStore), Failure> {
    let home = Home::open_default().map_err(vmm::Error::from)?;
    let store = KernelStore::of(&home);
    Ok((home, store))
}
