//! `vmm balloon`: how much of its memory a guest does without.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{print, print_json};
use crate::error::Failure;
use crate::values;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm balloon box          what it is asked to do without, and what it does without
  vmm balloon box 256M     ask it to do without 256M
  vmm balloon box 0        give it all of its memory back")]
pub(crate) struct Balloon {
    /// Print JSON, in bytes
    #[arg(long)]
    json: bool,
    /// Its name, id or the beginning of its id
    vm: String,
    /// How much it is to do without in all, such as 256M; at least 64M must stay
    #[arg(value_parser = values::bytes)]
    size: Option<u64>,
}

impl Balloon {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let balloon = match self.size {
            Some(bytes) => sandbox.set_balloon(bytes)?,
            None => sandbox.balloon()?,
        };
        if self.json {
            print_json(&balloon)?;
        } else {
            let [target, actual] = [balloon.target, balloon.actual].map(|bytes| bytes >> 20);
            let name = sandbox.name();
            print(&format!("{name} is asked to do without {target}M, and does without {actual}M\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
