//! `vmm ps`: the VMs there are.

use std::process::ExitCode;

use clap::Args;
use vmm::{Home, Sandbox};

use super::{print_json, print_table};
use crate::error::Failure;
use crate::table;

#[derive(Args)]
pub(crate) struct Ps {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let machines = Sandbox::list(&home)?;
        if self.json {
            print_json(&machines)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = machines
            .iter()
            .map(|vm| {
                let mut state = vm.state.to_string();
                if let Some(health) = &vm.health {
                    state.push_str(&format!(" ({})", health.status));
                }
                if vm.unresponsive {
                    state.push_str(" (does not answer)");
                }
                vec![
                    vm.id.to_string(),
                    vm.name.as_ref().map(ToString::to_string).unwrap_or_default(),
                    state,
                    vm.image.clone(),
                    vm.engine.clone().unwrap_or_default(),
                    vm.cpus.to_string(),
                    vm.memory.to_string(),
                    table::age(vm.created.elapsed()),
                ]
            })
            .collect();
        print_table(&["ID", "NAME", "STATE", "IMAGE", "ENGINE", "CPUS", "MEMORY", "AGE"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}
