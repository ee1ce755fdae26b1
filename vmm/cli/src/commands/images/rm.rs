//! `vmm images rm`: remove images.

use std::process::ExitCode;

use clap::Args;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef};
use vmm::{remove_image, remove_unreadable_image};

use super::super::for_each;
use super::{Freed, architecture, open};
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
            let (reference, arch): (ImageRef, _) = (name.parse()?, architecture(self.arch)?);
            removed.extend(match store.find(&reference, arch) {
                Ok(image) => remove_image(&home, &image)?,
                Err(
                    ImageError::Damaged { .. } | ImageError::DamagedImport { .. } | ImageError::Newer { .. },
                ) if reference.is_exact() => remove_unreadable_image(&home, &reference, arch)?,
                Err(error) => return Err(error.into()),
            });
            Ok(())
        });
        // Where each was refused, nothing was done that could be told.
        if self.json || !removed.is_empty() {
            Freed::new(removed).print("freed", self.json)?;
        }
        Ok(status)
    }
}
