//! `vmm kernel rm`: kernels that nothing boots go.

use std::process::ExitCode;

use clap::Args;
use vmm::kernels::KernelName;
use vmm::remove_kernel;

use super::super::for_each;
use super::{open, print};
use crate::error::Failure;

/// Remove kernels that nothing boots
#[derive(Args)]
pub(super) struct Rm {
    /// Kernels of `vmm kernel list`
    #[arg(required = true, value_name = "NAME")]
    kernels: Vec<KernelName>,
}

impl Rm {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (home, _) = open()?;
        Ok(for_each(&self.kernels, |name| {
            remove_kernel(&home, name)?;
            print(&format!("{name}\n"))
        }))
    }
}
