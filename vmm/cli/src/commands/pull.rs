//! `vmm pull`: fetch images.

use std::process::ExitCode;

use clap::Args;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef, ImageStore, PullMode};
use vmm::{CancelToken, Home};

use super::{for_each, print, run};
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Fetch images, verify them and make them ready to boot
#[derive(Args)]
#[command(after_help = "Examples:
  vmm pull alpine
  vmm pull --force alpine       replace what is here, for instance a damaged file
  vmm pull --arch arm64 alpine")]
pub(crate) struct Pull {
    /// Fetch what is here already, too
    #[arg(long, short)]
    force: bool,
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Images, such as alpine or alpine:3.23
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Pull {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let store = ImageStore::open(home.root())?;
        let Some(arch) = self.arch.or_else(Arch::host) else {
            return Err(Failure::usage("no guest has this processor").with_hint("name one with --arch"));
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mode = if self.force { PullMode::Force } else { PullMode::IfMissing };
        let status = for_each(&self.images, |name| {
            if token.is_cancelled() {
                return Ok(());
            }
            let image: ImageRef = name.parse()?;
            let display = PullDisplay::new(quiet, &token);
            let pulled = store.pull(&image, arch, mode, &display);
            display.clear();
            match pulled {
                Err(ImageError::Cancelled { .. }) => Ok(()),
                pulled => {
                    let pulled = pulled?;
                    let done = if pulled.fetched { "pulled" } else { "here already" };
                    print(&format!("{}-{}: {done}\n", pulled.image, pulled.image.arch()))
                }
            }
        });
        Ok(if token.is_cancelled() { run::cancelled(&signals) } else { status })
    }
}
