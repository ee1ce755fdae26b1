//! `vmm images tag`: another name for an image.

use std::process::ExitCode;

use clap::Args;
use vmm::image::ImageRef;

use super::super::{print, print_json};
use super::{Named, open};
use crate::error::Failure;

/// Give an image another name beside its own
#[derive(Args)]
pub(super) struct Tag {
    #[command(flatten)]
    image: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The name, perhaps with a version, such as mine or mine:1.0
    #[arg(value_name = "NAME")]
    name: String,
}

impl Tag {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let image = self.image.find(&store)?;
        let target: ImageRef = self.name.parse()?;
        let tagged = store.tag(&image, &target)?;
        if self.json {
            print_json(&serde_json::json!({ "image": tagged.to_string() }))?;
        } else {
            print(&format!("{tagged}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
