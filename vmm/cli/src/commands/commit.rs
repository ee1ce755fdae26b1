//! `vmm commit`: an image from a VM.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::image::{Image, ImageError, ImageRef};
use vmm::{CancelToken, Committed, Error, Home, Sandbox};

use super::{print, print_json, run, tell_frozen};
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;
use crate::values;

#[derive(Args)]
#[command(after_help = "Examples:
  vmm commit box tools              then: vmm run tools
  vmm commit box tools:1.2
  vmm commit --force box tools      replaces the one before")]
pub(crate) struct Commit {
    /// Replace an image that has the name
    #[arg(long, short)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// What to call the image, perhaps with a release or a whole version (default: today's, of the VM's image's release)
    #[arg(value_name = "NAME[:VERSION]")]
    image: ImageRef,
}

#[derive(Serialize)]
struct Report {
    image: String,
    name: String,
    version: String,
    arch: vmm::arch::Arch,
    /// How long the guest stood still; none if it does not run.
    frozen_ms: Option<f64>,
    /// The images that had the name, and are gone.
    replaced: Vec<String>,
}

impl Commit {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let sandbox = Sandbox::attach(&home, &self.vm)?;
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let display = PullDisplay::new(quiet, &token);
        let committed = sandbox.commit(&self.image, self.force, &display);
        display.clear();
        let committed = match committed {
            Err(Error::Image { source }) if matches!(*source, ImageError::Cancelled { .. }) => {
                return Ok(run::cancelled(&signals));
            }
            committed => committed?,
        };
        let Committed { image, frozen, replaced } = committed;
        if self.json {
            print_json(&Report {
                image: image.to_string(),
                name: image.name().to_string(),
                version: image.version().to_string(),
                arch: image.arch(),
                frozen_ms: frozen.map(values::milliseconds),
                replaced: replaced.iter().map(Image::to_string).collect(),
            })?;
        } else {
            print(&format!("{image}\n"))?;
            tell_frozen(&self.vm, frozen);
        }
        Ok(ExitCode::SUCCESS)
    }
}
