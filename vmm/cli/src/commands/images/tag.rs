//! `vmm images tag`: another name for an image.

use std::process::ExitCode;

use clap::Args;
use vmm::image::ImageRef;

use super::super::print;
use super::{Named, open};
use crate::error::Failure;

/// Give an image another name beside its own
#[derive(Args)]
pub(super) struct Tag {
    #[command(flatten)]
    image: Named,
    /// The name, perhaps with a version, such as mine or mine:1.0
    #[arg(value_name = "NAME")]
    name: String,
}

impl Tag {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let image = self.image.find(&store)?;
        let target: ImageRef = self.name.parse()?;
        print(&format!("{}\n", store.tag(&image, &target)?))?;
        Ok(ExitCode::SUCCESS)
    }
}
