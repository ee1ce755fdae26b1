//! `vmm down`: shut the VMs of a project down.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use vmm::project::ProjectOptions;
use vmm::{CancelToken, Home};

use super::project::{EventDisplay, WhichProject};
use super::{print, print_json};
use crate::error::Failure;
use crate::sanitise::say;
use crate::values;

#[derive(Args)]
pub(crate) struct Down {
    #[command(flatten)]
    project: WhichProject,
    /// How long each guest may take before it is stopped as by pulling the plug
    #[arg(long, short, value_name = "TIME", value_parser = values::duration, default_value = "10s")]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Names of VMs in the project; all of them where none is named
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

impl Down {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let project = self.project.open(&home)?;
        let display = Arc::new(EventDisplay::new(quiet));
        let options = ProjectOptions::new(&CancelToken::new()?).observer(move |event| display.show(event));
        let stopped = project.hold(&options)?.down(&self.vms, self.timeout, &options)?;
        if stopped.is_empty() && !quiet {
            say("→ nothing runs here");
        }
        if self.json {
            print_json(&stopped)?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&stopped.iter().map(|name| format!("{name} is down\n")).collect::<String>())?;
        Ok(ExitCode::SUCCESS)
    }
}
