//! `vmm events`: what happens to the VMs, as it happens.

use std::process::ExitCode;

use clap::Args;
use vmm::{CancelToken, Happened, Home, Sandbox, VmEvent};

use super::{attach_all, print};
use crate::error::Failure;
use crate::sanitise;
use crate::signals::SignalForwarder;

#[derive(Args)]
pub(crate) struct Events {
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
    /// Only these VMs: names, ids or the beginnings of ids
    #[arg(value_name = "VM")]
    vms: Vec<String>,
}

impl Events {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let token = CancelToken::new()?;
        let _signals = SignalForwarder::install(&token)?;
        let wanted: Vec<_> = attach_all(&home, &self.vms)?.iter().map(|vm| vm.id().clone()).collect();
        for event in Sandbox::events(&home, Some(&token))? {
            let event = event?;
            if !wanted.is_empty() && !wanted.contains(&event.id) {
                continue;
            }
            let line = if self.json {
                serde_json::to_string(&event).map_err(|error| Failure::usage(error.to_string()))?
            } else {
                sanitise::text(&text(&event))
            };
            print(&format!("{line}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(event: &VmEvent) -> String {
    let name = event.name.as_ref().map_or_else(|| event.id.to_string(), ToString::to_string);
    let what = match &event.what {
        Happened::Created => "created".to_owned(),
        Happened::State { state } => state.to_string(),
        Happened::Health { health } => match health.said.lines().next() {
            Some(said) => format!("{} ({said})", health.status),
            None => health.status.to_string(),
        },
        Happened::Ended { end } => format!("ended: {}", end.message),
        Happened::Renamed => format!("renamed: {}", event.id),
        Happened::Removed => "removed".to_owned(),
        _ => "something that this vmm does not know".to_owned(),
    };
    format!("{} {name} {what}", event.time)
}
