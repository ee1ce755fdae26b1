//! From a VM's description to a machine that runs.

use std::os::fd::OwnedFd;
use std::sync::Weak;

use vmm_disk::LiveDisk;

use crate::engine::{EngineError, EngineOptions, MachineEnd, RunningMachine, chain, select};
use crate::home::{Home, VmSpec};
use crate::machine::BuildError;

/// Makes machines run.
pub trait Launcher: Send + Sync {
    /// Starts the machine of a VM of `home`. `console` gets what the guest writes to its console; `ended` is called once, when
    /// the machine has ended, and never after an error. `built` is called when the engine takes over, with a hold on the
    /// root disk.
    fn launch(
        &self,
        home: &Home,
        spec: &VmSpec,
        console: OwnedFd,
        built: &dyn Fn(Weak<LiveDisk>),
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, LaunchFailure>;
}

/// Why a machine does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFailure {
    /// What happened, with its causes.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The engines of this build.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineLauncher;

impl Launcher for EngineLauncher {
    fn launch(
        &self,
        home: &Home,
        spec: &VmSpec,
        console: OwnedFd,
        built: &dyn Fn(Weak<LiveDisk>),
        ended: Box<dyn FnOnce(MachineEnd) + Send>,
    ) -> Result<Box<dyn RunningMachine>, LaunchFailure> {
        let supervisor = std::env::current_exe().map_err(|error| LaunchFailure {
            message: format!("cannot find our own executable: {error}"),
            hint: None,
        })?;
        let options = EngineOptions { cache: Some(home.cache()), ..EngineOptions::new(supervisor) };
        let engine = select(spec.engine, spec.require_hardware, spec.machine.arch, &options)?;
        let (machine, root) = spec.machine.build(console)?;
        built(root);
        Ok(engine.launch(machine, ended)?)
    }
}

impl From<EngineError> for LaunchFailure {
    fn from(error: EngineError) -> Self {
        Self { message: chain(&error), hint: error.hint() }
    }
}

impl From<BuildError> for LaunchFailure {
    fn from(error: BuildError) -> Self {
        Self { message: chain(&error), hint: None }
    }
}
