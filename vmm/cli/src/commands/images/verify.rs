//! `vmm images verify`: read every byte.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::CancelToken;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef, Thoroughness};

use super::super::{print, print_json, run};
use super::{Named, open};
use crate::error::{FAILED, Failure};
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Read every byte of images and say whether it is what was pulled
///
/// The status is 0 when all are good.
#[derive(Args)]
pub(super) struct Verify {
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Images that are here (default: all of them)
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Serialize)]
struct Verdict {
    image: String,
    arch: Arch,
    good: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

impl Verify {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let images = if self.images.is_empty() {
            let all = store.summaries()?.into_iter();
            all.map(|image| store.find(&ImageRef::exact(image.name, image.version), image.arch))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            let named = self.images.iter();
            named
                .map(|name| Named { image: name.clone(), arch: self.arch }.find(&store))
                .collect::<Result<Vec<_>, _>>()?
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mut verdicts = Vec::new();
        for image in images {
            let display = PullDisplay::new(quiet, &token);
            let verified = store.verify_told(&image, Thoroughness::Full, &display);
            display.clear();
            let damage = match verified {
                Ok(_) => None,
                Err(ImageError::Cancelled { .. }) => return Ok(run::cancelled(&signals)),
                Err(error) => Some(Failure::from(error).to_string()),
            };
            verdicts.push(Verdict {
                image: image.to_string(),
                arch: image.arch(),
                good: damage.is_none(),
                damage,
            });
        }
        if self.json {
            print_json(&verdicts)?;
        } else {
            let lines = verdicts.iter().map(|Verdict { image, arch, damage, .. }| {
                format!("{image}-{arch}: {}\n", damage.as_deref().unwrap_or("good"))
            });
            print(&lines.collect::<String>())?;
        }
        let good = verdicts.iter().all(|verdict| verdict.good);
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}
