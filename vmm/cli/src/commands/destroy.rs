//! `vmm destroy`: remove the VMs of a project.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use vmm::project::ProjectOptions;
use vmm::{CancelToken, Home};

use super::project::{EventDisplay, WhichProject, ask};
use super::{print, print_json};
use crate::error::Failure;
use crate::sanitise::say;

#[derive(Args)]
pub(crate) struct Destroy {
    #[command(flatten)]
    project: WhichProject,
    /// Do it without a question
    #[arg(long, short)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names of VMs in the project; all of them where none is named
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

impl Destroy {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let project = self.project.open(&home)?;
        let display = Arc::new(EventDisplay::new(quiet));
        let options = ProjectOptions::new(&CancelToken::new()?).observer(move |event| display.show(event));
        let held = project.hold(&options)?;
        let machines = held.remembered(&self.vms)?;
        if machines.is_empty() {
            if !quiet {
                say("→ there is nothing to remove here");
            }
        } else if !self.yes {
            let (names, folder) = (machines.join(", "), project.folder().display());
            match ask(&format!("Remove {names} of {folder} with all disks?"))? {
                Some(true) => {}
                Some(false) => return Err(Failure::usage("nothing was removed")),
                None => {
                    let failure =
                        Failure::usage(format!("this would remove {names} of {folder} with all disks"));
                    return Err(failure.with_hint("if that is meant: vmm destroy --yes"));
                }
            }
        }
        let destroyed = held.destroy(&self.vms)?;
        if self.json {
            print_json(&destroyed)?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&destroyed.iter().map(|name| format!("{name} is gone\n")).collect::<String>())?;
        Ok(ExitCode::SUCCESS)
    }
}
