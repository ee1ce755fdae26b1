//! `vmm rename`: another name for a VM.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{Done, project};
use crate::error::Failure;

#[derive(Args)]
pub(crate) struct Rename {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
    /// What to call it
    #[arg(value_name = "NEW")]
    name: String,
}

impl Rename {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        project::refuse_if_of_project(&home, sandbox.name())?;
        sandbox.rename(&self.name)?;
        let mut done = Done::new(self.json);
        done.vm(&Sandbox::attach(&home, &self.name)?)?;
        done.finish(ExitCode::SUCCESS)
    }
}
