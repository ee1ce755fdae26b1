//! `vmm status`: what the VMs of a project do.

use std::process::ExitCode;

use clap::Args;
use vmm::Home;
use vmm::project::{MachineStatus, Project, ProjectStatus};

use super::project::WhichProject;
use super::{print_json, print_table};
use crate::error::Failure;
use crate::sanitise::say;
use crate::values;

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    project: WhichProject,
    /// Tell of every project that has VMs, also of those whose folder is gone
    #[arg(long, conflicts_with = "project")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// As `vmm up` is told: what differs is what that would change
    #[arg(long, value_name = "ENGINE", env = "VMM_ENGINE")]
    engine: Option<values::Engine>,
    /// Names of VMs in the project; all of them where none is named
    #[arg(value_name = "VM", conflicts_with = "all")]
    vms: Vec<String>,
}

impl Status {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let projects = if self.all { Project::list(&home)? } else { vec![self.project.open(&home)?] };
        let overruled = |project: Project| match values::Engine::of(self.engine) {
            Some(engine) => project.engine(engine),
            None => project,
        };
        let projects: Vec<Project> = projects.into_iter().map(overruled).collect();
        let mut statuses = projects.iter().map(Project::status).collect::<Result<Vec<_>, _>>()?;
        for vm in &self.vms {
            projects.iter().try_for_each(|project| project.knows(vm))?;
        }
        if !self.vms.is_empty() {
            for status in &mut statuses {
                status.machines.retain(|machine| self.vms.contains(&machine.name));
            }
        }
        match (statuses.as_slice(), self.json) {
            ([status], true) if !self.all => print_json(status)?,
            (statuses, true) => print_json(&statuses)?,
            (statuses, false) => tell(statuses, self.all)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(statuses: &[ProjectStatus], all: bool) -> Result<(), Failure> {
    let mut heading = vec!["VM", "STATE", "HEALTH", "IMAGE", "ENGINE", "CPUS", "MEMORY", "NAME"];
    if all {
        heading.push("PROJECT");
    }
    let mut rows = Vec::new();
    for status in statuses {
        for machine in &status.machines {
            let mut row = row(machine);
            if all {
                let gone = if status.exists { "" } else { " (gone)" };
                row.push(crate::sanitise::text(&format!("{}{gone}", status.folder.display())));
            }
            rows.push(row);
        }
    }
    print_table(&heading, &rows)?;
    for status in statuses {
        if let Some(problem) = &status.problem {
            say(problem);
        }
        status.machines.iter().for_each(tell_difference);
    }
    Ok(())
}

fn row(machine: &MachineStatus) -> Vec<String> {
    let vm = machine.vm.as_ref();
    let state = match vm {
        Some(vm) if vm.unresponsive => format!("{} (does not answer)", vm.state),
        Some(vm) => vm.state.to_string(),
        None => "not created".to_owned(),
    };
    let health = match machine.healthy {
        Some(true) => "healthy",
        Some(false) => "unhealthy",
        None => "",
    };
    let name = vm.and_then(|vm| vm.name.as_ref()).map(ToString::to_string);
    vec![
        machine.name.clone(),
        state,
        health.to_owned(),
        vm.map(|vm| vm.image.clone()).unwrap_or_default(),
        vm.and_then(|vm| vm.engine.clone()).unwrap_or_default(),
        vm.map(|vm| vm.cpus.to_string()).unwrap_or_default(),
        vm.map(|vm| vm.memory.to_string()).unwrap_or_default(),
        name.unwrap_or_default(),
    ]
}

/// Says what the project's file says differently.
fn tell_difference(machine: &MachineStatus) {
    let name = &machine.name;
    if machine.described == Some(false) {
        say(&format!("{name}: not described any more; vmm destroy {name} removes it"));
    }
    if !machine.changes.is_empty() {
        let keys: Vec<&str> = machine.changes.iter().map(|change| change.key.as_str()).collect();
        say(&format!("{name}: the project's file differs: {}; vmm up applies it", keys.join(", ")));
    }
    let runs = machine.vm.as_ref().is_some_and(|vm| vm.state.is_live());
    if runs && !machine.scripts.is_empty() {
        say(&format!("{name}: still to run: {}; vmm up runs it", machine.scripts.join(", ")));
    }
}
