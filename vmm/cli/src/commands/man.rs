//! `vmm man`: the manual's pages, made of what `--help` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::print;
use crate::error::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm man --output ~/.local/share/man/man1      then: man vmm, man vmm-run
  vmm man | man -l -")]
pub(crate) struct Manual {
    /// Write a page for each command into this folder; otherwise the page of vmm itself is printed
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Manual {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut command = crate::Cli::command().disable_help_subcommand(true);
        command.build();
        match &self.output {
            Some(folder) => {
                fs::create_dir_all(folder)
                    .map_err(|error| Failure::usage(format!("cannot make {}: {error}", folder.display())))?;
                write(&command, "vmm", folder)?;
            }
            None => print(&String::from_utf8_lossy(&page(&command, "vmm")?))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the pages of a command and of those beneath it.
fn write(command: &clap::Command, name: &str, folder: &Path) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.1"));
    let partial = path.with_extension("partial");
    fs::write(&partial, page(command, name)?)
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(|error| Failure::usage(format!("cannot write {}: {error}", path.display())))?;
    print(&format!("{}\n", path.display()))?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let command = command.clone().display_name(name);
    Man::new(command).manual("vmm").source(format!("vmm {}", env!("CARGO_PKG_VERSION"))).render(&mut page)?;
    Ok(page)
}
