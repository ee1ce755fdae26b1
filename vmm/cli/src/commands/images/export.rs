//! `vmm images export`: an image's disk in one file.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vmm::CancelToken;
use vmm::image::ImageError;

use super::super::{print, print_json, run};
use super::{Named, open};
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Write an image's disk into one qcow2 file that needs no other
///
/// The kernel is in it only if the image has one in its root file system: `vmm images inspect` names the folder with the
/// kernel that VMs boot.
#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    image: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The file to write, such as alpine.qcow2
    file: PathBuf,
}

impl Export {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let is_other = |ending: &str| ["raw", "img", "vmdk", "vhd", "vhdx", "vdi"].contains(&ending);
        let ending = self.file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if is_other(&ending.to_ascii_lowercase()) {
            return Err(Failure::usage("an image is exported as qcow2, and the file's name says otherwise")
                .with_hint("call it .qcow2, and convert that with qemu-img"));
        }
        let (_, store) = open()?;
        let image = self.image.find(&store)?;
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let display = PullDisplay::new(quiet, &token);
        let exported = store.export(&image, &self.file, &display);
        display.clear();
        if let Err(ImageError::Cancelled { .. }) = exported {
            return Ok(run::cancelled(&signals));
        }
        exported?;
        if self.json {
            print_json(&serde_json::json!({ "image": image.to_string(), "file": self.file }))?;
        } else {
            print(&format!("{}\n", self.file.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
