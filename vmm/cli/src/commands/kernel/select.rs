//! `vmm kernel use`: which kernel boots what.

use std::process::ExitCode;

use clap::Args;
use vmm::image::ImageName;
use vmm::kernels::Choice;

use super::{open, print_json};
use crate::error::Failure;

/// Let a kernel boot the VMs that are made from an image, or from any image
///
/// It counts for VMs that are created from now on, and for those that `vmm up` changes. A VM says otherwise with
/// `vmm run --kernel`. The name `image` stands for the image's own kernel, which is what boots where nothing is chosen.
#[derive(Args)]
pub(super) struct Select {
    /// A kernel of `vmm kernel list`, or `image`
    #[arg(value_name = "NAME")]
    kernel: String,
    /// The name of an image, such as alpine (default: all for which nothing is chosen)
    image: Option<ImageName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Select {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        store.choose(Choice::try_from(self.kernel.clone())?, self.image.as_ref())?;
        if self.json {
            let image = self.image.as_ref().map(ImageName::as_str);
            print_json(&serde_json::json!({ "kernel": self.kernel, "image": image }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
