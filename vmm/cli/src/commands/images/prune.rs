//! `vmm images prune`: make room.

use std::process::ExitCode;

use clap::Args;
use vmm::prune_images;

use super::{Freed, open};
use crate::error::Failure;

/// Remove downloads, remains, and layers that neither an image nor a VM needs
#[derive(Args)]
pub(super) struct Prune {
    /// Only say what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (home, _) = open()?;
        let freed = Freed::new(prune_images(&home, self.dry_run)?);
        freed.print(if self.dry_run { "would free" } else { "freed" }, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}
