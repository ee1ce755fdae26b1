//! The process of one VM: it owns the machine, records its console, answers at the control socket, and clears
//! everything away at the end.
//!
//! Whoever starts a VM starts the `vmm` executable as a monitor, with a socket as its standard input: the first
//! control connection, on which the request to start and the VM's open lock file arrive. While the monitor lives it
//! holds that lock, so its death is seen as the VM's; nothing that it starts inherits it.
//!
//! One thread waits for everything (signals, clients, console, the agent's call) and never blocks; what blocks has a
//! thread of its own and reports to it. What follows from what is decided in `life`, which knows no descriptor.
//!
//! May depend on: `engine`, `machine`, `agent`, `home`, `control`, `vmm-protocol`, `vmm-sys`. Never on `sandbox`,
//! `image`.

mod client;
mod console;
mod console_clients;
mod console_times;
mod event_loop;
mod guest;
mod health;
mod launcher;
mod layer;
mod life;
mod machine;
mod pause;
mod process;

pub use launcher::{EngineLauncher, LaunchFailure, Launcher};
pub use process::MonitorError;

use std::process::ExitCode;
use std::sync::Arc;

use snafu::ResultExt;

use process::SystemSnafu;

/// The first argument of the executable that makes it a monitor.
pub const ARGUMENT: &str = "monitor";

/// The whole life of a monitor process with the engines of this build; its standard input is the socket of whoever
/// started it. To be called from `main`, before there are other threads.
pub fn main() -> ExitCode {
    match run(Arc::new(EngineLauncher)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", crate::engine::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// The same with another way to launch machines.
pub fn run(launcher: Arc<dyn Launcher>) -> Result<(), MonitorError> {
    let process = process::Process::become_one()?;
    let asked = process.receive_start()?;
    let refuse = asked.refusal(&process.starter).context(SystemSnafu { what: "answer who started us" })?;
    match asked.accept().and_then(|start| event_loop::Monitor::new(process, start)) {
        Ok(monitor) => monitor.run(launcher),
        Err(error) => {
            refuse(&error);
            Err(error)
        }
    }
}
