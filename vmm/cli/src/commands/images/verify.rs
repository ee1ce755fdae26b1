//! `vmm images verify`: read every byte.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::CancelToken;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef, Thoroughness};

use super::super::{print, print_json, run};
use super::{architecture, open};
use crate::error::{FAILED, Failure};
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Read every byte of images and say whether it is what was pulled
///
/// The status is 0 when all are good.
#[derive(Args)]
pub(super) struct Verify {
    /// The architecture: x86_64 or arm64 (default: this machine's, or all where no image is named)
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
        let asked: Vec<(ImageRef, Arch)> = if self.images.is_empty() {
            let all = store.names()?.into_iter();
            all.filter(|(_, arch)| self.arch.is_none_or(|asked| asked == *arch)).collect()
        } else {
            let arch = architecture(self.arch)?;
            let named = self.images.iter().map(|name| Ok((name.parse()?, arch)));
            named.collect::<Result<_, Failure>>()?
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let mut verdicts = Vec::new();
        for (name, arch) in asked {
            let display = PullDisplay::new(quiet, &token);
            let found = store.find(&name, arch);
            let image = found.as_ref().map_or_else(|_| name.to_string(), ToString::to_string);
            let verified = found.and_then(|image| store.verify_told(&image, Thoroughness::Full, &display));
            display.clear();
            let damage = match verified {
                Ok(_) => None,
                Err(ImageError::Cancelled { .. }) => return Ok(run::cancelled(&signals)),
                Err(error @ (ImageError::Unknown { .. } | ImageError::NotPulled { .. })) => {
                    return Err(error.into());
                }
                Err(error) => Some(Failure::from(error).to_string()),
            };
            verdicts.push(Verdict { image, arch, good: damage.is_none(), damage });
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
