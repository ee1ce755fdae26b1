//! `vmm service`: a VM that systemd starts.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;
use vmm::{Home, Sandbox, ServiceRestart, ServiceScope};

use super::{print, print_json};
use crate::error::Failure;
use crate::sanitise::say;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm service box                               print the unit
  vmm service --install box                     for your own systemd; at boot, once you linger:
  loginctl enable-linger
  sudo VMM_HOME=/srv/vmm vmm service --system --install box
  systemctl --user start vmm-box                start it now
  vmm service --remove box")]
pub(crate) struct Service {
    /// Install the unit, to be started at the next login or boot
    #[arg(long, conflicts_with = "remove")]
    install: bool,
    /// Take away the unit that was installed
    #[arg(long)]
    remove: bool,
    /// For the system's systemd, as the user who asks for it (default: for your own)
    #[arg(long)]
    system: bool,
    /// When systemd starts the VM anew: no, for that is its keeper's, on-failure or always
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Restart::No)]
    restart: Restart,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The VM's name, id or the beginning of its id
    vm: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Restart {
    No,
    OnFailure,
    Always,
}

impl Service {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let scope = if self.system { ServiceScope::System } else { ServiceScope::User };
        if self.remove {
            let removed = sandbox.remove_service(scope)?;
            if self.json {
                print_json(&json!({ "removed": removed }))?;
            } else if !removed {
                return Err(Failure::usage(format!("no unit is installed for {}", sandbox.name())));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let unit = sandbox.service(scope, self.restart.into(), &std::env::current_exe()?)?;
        let path = if self.install { Some(unit.install()?) } else { None };
        match (&path, self.json) {
            (_, true) => print_json(&json!({ "unit": unit.name, "text": unit.text, "file": path }))?,
            (Some(path), false) => print(&format!("{}\n", path.display()))?,
            (None, false) => print(&unit.text)?,
        }
        if path.is_some() && !quiet {
            let systemctl = if self.system { "systemctl" } else { "systemctl --user" };
            say(&format!("vmm: it starts by itself from now on; at once: {systemctl} start {}", unit.name));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl From<Restart> for ServiceRestart {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::No => Self::No,
            Restart::OnFailure => Self::OnFailure,
            Restart::Always => Self::Always,
        }
    }
}
