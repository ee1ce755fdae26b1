//! `vmm kernel rm`: kernels that nothing boots go.

use std::process::ExitCode;

use clap::Args;
use vmm::kernels::KernelName;
use vmm::remove_kernel;

use super::super::for_each;
use super::{open, print, print_json};
use crate::error::Failure;

/// Remove kernels that nothing boots
#[derive(Args)]
pub(super) struct Rm {
    /// Kernels of `vmm kernel list`
    #[arg(required = true, value_name = "NAME")]
    kernels: Vec<KernelName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Rm {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (home, _) = open()?;
        let mut removed = Vec::new();
        let status = for_each(&self.kernels, |name| {
            remove_kernel(&home, name)?;
            removed.push(name);
            if self.json { Ok(()) } else { print(&format!("{name}\n")) }
        });
        if self.json {
            print_json(&removed)?;
        }
        Ok(status)
    }
}
