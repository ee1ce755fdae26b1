//! `vmm images download`: fetch what images are made from.

use std::process::ExitCode;

use clap::Args;
use vmm::CancelToken;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef};

use super::super::{for_each, print, print_json, run};
use super::{architecture, open};
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Fetch what images are made from, for a pull without a network later
#[derive(Args)]
pub(super) struct Download {
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Images, such as alpine or alpine:3.23
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Download {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let arch = architecture(self.arch)?;
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mut done_to = Vec::new();
        let status = for_each(&self.images, |name| {
            if token.is_cancelled() {
                return Ok(());
            }
            let image: ImageRef = name.parse()?;
            let display = PullDisplay::new(quiet, &token);
            let downloaded = store.download(&image, arch, &display);
            display.clear();
            match downloaded {
                Err(ImageError::Cancelled { .. }) => Ok(()),
                downloaded => {
                    let downloaded = downloaded?;
                    let done = if downloaded.fetched { "downloaded" } else { "here already" };
                    if self.json {
                        let (image, fetched) = (downloaded.image.to_string(), downloaded.fetched);
                        done_to.push(serde_json::json!({ "image": image, "arch": arch, "fetched": fetched }));
                        return Ok(());
                    }
                    print(&format!("{}-{arch}: {done}\n", downloaded.image))
                }
            }
        });
        if self.json {
            print_json(&done_to)?;
        }
        Ok(if token.is_cancelled() { run::cancelled(&signals) } else { status })
    }
}
