//! What a project's machines do.

use std::path::PathBuf;

use serde::Serialize;
use snafu::ResultExt;

use super::error::MachineSnafu;
use super::plan::{Change, LiveVm, MachinePlan};
use super::record::ProjectRecord;
use super::wait::Waiter;
use super::{Project, ProjectError, guest, materials, names, vm};
use crate::home::{Home, VmState};
use crate::kernels::KernelStore;
use crate::sandbox::{CancelToken, VmInfo};

/// What is known of a project.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct ProjectStatus {
    /// Its folder.
    pub folder: PathBuf,
    /// The folder is there.
    pub exists: bool,
    /// Its file, if it has one.
    pub file: Option<PathBuf>,
    /// Why its file cannot be understood.
    pub problem: Option<String>,
    /// Its machines: those that the file describes in its order, then others that are remembered.
    pub machines: Vec<MachineStatus>,
}

/// What is known of a machine of a project.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct MachineStatus {
    /// Its name in the project.
    pub name: String,
    /// Whether the project's file describes it, where that can be read.
    pub described: Option<bool>,
    /// Its VM, if there is one.
    pub vm: Option<VmInfo>,
    /// What the file says differently from what its VM is: `up` would change it.
    pub changes: Vec<Change>,
    /// The scripts that `up` would run now.
    pub scripts: Vec<String>,
    /// Whether its health check succeeds, where it has one and runs.
    pub healthy: Option<bool>,
}

/// Looks at a project.
pub(super) fn look(project: &Project, record: &ProjectRecord) -> Result<ProjectStatus, ProjectError> {
    let folder = project.folder().to_owned();
    let exists = folder.is_dir();
    // What lies outside the project is read only by those who may start it.
    let described = project.describe().and_then(|description| {
        let trusted = description.outside.is_empty() || record.trusted == Some(description.question);
        let kernels = KernelStore::of(&project.home);
        let ready = trusted.then(|| {
            materials::gather(&kernels, &description.location, &description.file, &description.outside)
        });
        Ok((description.names(), ready.transpose()?))
    });
    let (described, ready, problem) = match described {
        Ok((names, ready)) => (Some(names), ready.unwrap_or_default(), None),
        Err(error) if exists => (None, Vec::new(), Some(error.to_string())),
        Err(_) => (None, Vec::new(), None),
    };
    let mut machines = Vec::new();
    for name in names(record, described.as_deref().unwrap_or_default()) {
        let remembered = record.machines.get(&name);
        let info = match remembered {
            Some(remembered) => info(&project.home, &name, &remembered.vm)?,
            None => None,
        };
        let mut status = MachineStatus {
            described: described.as_ref().map(|names| names.contains(&name)),
            vm: None,
            changes: Vec::new(),
            scripts: Vec::new(),
            healthy: None,
            name,
        };
        let ready = ready.iter().find(|ready| ready.name == status.name);
        if let (Some(ready), Some(info), Some(remembered)) = (ready, &info, remembered) {
            let live = LiveVm::from(info);
            let plan = MachinePlan::new(ready.clone(), remembered.vm.clone(), Some(remembered), Some(&live));
            status.healthy = health(&project.home, &plan, info)?;
            status.changes = plan.changes;
            status.scripts = plan.scripts;
        }
        status.vm = info;
        machines.push(status);
    }
    let file = project.file().map(ToOwned::to_owned);
    Ok(ProjectStatus { folder, exists, file, problem, machines })
}

fn info(home: &Home, machine: &str, name: &str) -> Result<Option<VmInfo>, ProjectError> {
    let found = vm(home, name).context(MachineSnafu { machine })?;
    found.map(|vm| vm.info()).transpose().context(MachineSnafu { machine })
}

/// Whether a machine that runs does what it is for. One that cannot be asked does not.
fn health(home: &Home, plan: &MachinePlan, info: &VmInfo) -> Result<Option<bool>, ProjectError> {
    let Some(check) = plan.ready.description.health.as_ref().filter(|_| info.state == VmState::Running)
    else {
        return Ok(None);
    };
    let Some(sandbox) = vm(home, &plan.vm).context(MachineSnafu { machine: &plan.name })? else {
        return Ok(None);
    };
    let token = CancelToken::new();
    let token = token.map_err(|source| ProjectError::System { what: "wait".to_owned(), source })?;
    let outcome = guest::run_check(&sandbox, &plan.name, check, &Waiter::new(&token));
    Ok(Some(outcome.is_ok_and(|outcome| outcome.status.success())))
}
