//! `vmm inspect`: all that is known of VMs.

use std::process::ExitCode;

use clap::Args;
use vmm::image::{ImageRef, ImageStore};
use vmm::{Home, Sandbox};

use super::print_json;
use crate::error::Failure;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm inspect box
  vmm inspect box | jq -r '.[0].disks[0].layers[].path'")]
pub(crate) struct Inspect {
    /// Print JSON, as is done in any case
    #[arg(long)]
    json: bool,
    /// Names, ids or the beginnings of ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let inspected: Result<Vec<_>, Failure> = self
            .vms
            .iter()
            .map(|vm| match Sandbox::attach(&home, vm) {
                Ok(sandbox) => Ok(sandbox.inspect()?),
                Err(error) if is_image(&home, vm) => {
                    let hint = format!("{vm} is an image: vmm images inspect {vm}");
                    Err(Failure::from(error).with_hint(hint))
                }
                Err(error) => Err(error.into()),
            })
            .collect();
        print_json(&inspected?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn is_image(home: &Home, name: &str) -> bool {
    let found = ImageStore::open(home.root()).ok().zip(name.parse::<ImageRef>().ok());
    let found = found.zip(vmm::arch::Arch::host());
    found.is_some_and(|((store, image), arch)| store.find(&image, arch).is_ok())
}
