//! `vmm pull`: fetch images.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::arch::Arch;
use vmm::image::{Image, ImageRef, PullMode};
use vmm::{CancelToken, Home, ImagePull, PulledImage, StartOptions};

use super::{for_each, print, print_json, run};
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;
use crate::values;

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
    /// What runs the machine in which an image is customised: auto, kvm, hvf or software (default: auto)
    #[arg(long, value_name = "ENGINE", env = "VMM_ENGINE")]
    engine: Option<values::Engine>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Images, such as alpine or alpine:3.23
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Pull {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let Some(arch) = self.arch.or_else(Arch::host) else {
            return Err(Failure::usage("no guest has this processor").with_hint("name one with --arch"));
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mode = if self.force { PullMode::Force } else { PullMode::IfMissing };
        let mut done_to = Vec::new();
        let status = for_each(&self.images, |name| {
            if token.is_cancelled() {
                return Ok(());
            }
            let image: ImageRef = name.parse()?;
            let display = PullDisplay::new(quiet, &token);
            let options = StartOptions::default().executable(std::env::current_exe()?).cancel_token(&token);
            let pull = ImagePull::new(image)
                .arch(arch)
                .mode(mode)
                .engine(values::Engine::of(self.engine).unwrap_or_default())
                .options(options);
            let pulled = pull.run(&home, &display);
            display.clear();
            match pulled {
                Err(vmm::Error::Cancelled) => Ok(()),
                pulled => {
                    let PulledImage { pulled, pending } = pulled?;
                    if let Some(why) = pending.filter(|_| !quiet) {
                        tell_of_pending(&pulled.image, &why)?;
                    }
                    let done = if pulled.fetched { "pulled" } else { "here already" };
                    if self.json {
                        done_to.push(PulledTo::of(&pulled.image, pulled.fetched));
                        return Ok(());
                    }
                    print(&format!("{}-{}: {done}\n", pulled.image, pulled.image.arch()))
                }
            }
        });
        if self.json {
            print_json(&done_to)?;
        }
        Ok(if token.is_cancelled() { run::cancelled(&signals) } else { status })
    }
}

/// An image that is here now.
#[derive(Serialize)]
struct PulledTo {
    image: String,
    name: String,
    version: String,
    arch: Arch,
    /// It was not here before.
    fetched: bool,
}

impl PulledTo {
    fn of(image: &Image, fetched: bool) -> Self {
        let (name, version) = (image.name().to_string(), image.version().to_string());
        Self { image: image.to_string(), name, version, arch: image.arch(), fetched }
    }
}

/// Says that an image will be customised later.
fn tell_of_pending(image: &Image, why: &vmm::Error) -> Result<(), Failure> {
    let causes = std::iter::successors(std::error::Error::source(why), |cause| cause.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    let arch = image.arch();
    writeln!(io::stderr(), "vmm: {image}-{arch} is customised when it is first started: {why}{causes}")?;
    Ok(())
}
