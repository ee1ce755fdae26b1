//! `vmm images rm`: remove images.

use std::process::ExitCode;

use clap::Args;
use vmm::arch::Arch;
use vmm::remove_image;

use super::super::for_each;
use super::{Freed, Named, open};
use crate::error::Failure;

/// Remove images that no VM uses, and what nothing else needs of their disks
#[derive(Args)]
pub(super) struct Rm {
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Images that are here, such as alpine or alpine:3.23
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rm {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (home, store) = open()?;
        let mut removed = Vec::new();
        let status = for_each(&self.images, |name| {
            let image = Named { image: name.to_owned(), arch: self.arch }.find(&store)?;
            removed.extend(remove_image(&home, &image)?);
            Ok(())
        });
        // Where each was refused, nothing was done that could be told.
        if self.json || !removed.is_empty() {
            Freed::new(removed).print("freed", self.json)?;
        }
        Ok(status)
    }
}
