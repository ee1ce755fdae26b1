//! `vmm kernel check`: what a kernel lacks.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use vmm::arch::Arch;
use vmm::image::{ImageRef, ImageStore};
use vmm::kernels::{Checked, KernelName, Purpose, Subject};

use super::{open, print, print_json};
use crate::error::Failure;

/// Say what a kernel lacks of what vmm needs, and what does not work without it
///
/// What is checked is a configuration (`.config`, perhaps gzipped), a kernel that has its configuration in it, a kernel that
/// was built here, or the kernel of an image. The status is 0 when nothing is missing, and 1 when something is. A module counts
/// as there, but for an image that does not bring its modules.
#[derive(Args)]
pub(super) struct Check {
    /// Check for these purposes, too: network, shared-folders, containers, nested
    #[arg(long = "for", value_name = "PURPOSES", value_delimiter = ',')]
    purposes: Vec<Purpose>,
    /// The architecture of an image: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A file, written with a `/` where a kernel or an image has its name too; a kernel of the store; or an image
    #[arg(value_name = "CONFIG|KERNEL|IMAGE")]
    what: String,
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let checked = self.subject()?.check(&self.purposes);
        if self.json {
            print_json(&checked)?;
        } else {
            print(&describe(&checked))?;
        }
        Ok(if checked.complete { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    /// Names mean the stores first, as everywhere.
    fn subject(&self) -> Result<Subject, Failure> {
        let path = Path::new(&self.what);
        if self.what.contains('/') {
            return Ok(Subject::of_file(path)?);
        }
        let (home, kernels) = open()?;
        if let Ok(name) = self.what.parse::<KernelName>()
            && kernels.has(&name)
        {
            return Ok(Subject::of_file(&kernels.find(&name)?.kernel())?);
        }
        let arch = self.arch.or_else(Arch::host);
        let arch = arch
            .ok_or_else(|| Failure::usage("no guest has this processor").with_hint("name one with --arch"))?;
        let images = ImageStore::open(home.root())?;
        let found = self.what.parse::<ImageRef>().map_err(Failure::from);
        match found.and_then(|image| Ok(images.find(&image, arch)?)) {
            Ok(image) => Ok(Subject::of_image(&images, &image)?),
            Err(_) if path.is_file() => Ok(Subject::of_file(path)?),
            Err(error) => Err(error),
        }
    }
}

fn describe(checked: &Checked) -> String {
    let mut text = String::new();
    for missing in &checked.missing {
        let module = if missing.module { " (a module that is not there)" } else { "" };
        let stops = if missing.stops { "no VM starts: " } else { "" };
        text.push_str(&format!("missing {}{module}: {stops}{}\n", missing.symbol, missing.lost));
    }
    let Checked { name, arch, symbols, .. } = checked;
    let found = match checked.missing.len() {
        0 => format!("has all {symbols} symbols that are wanted"),
        count => format!("lacks {count} of {symbols} symbols"),
    };
    let modules = match checked.modules.len() {
        0 => String::new(),
        count => format!("; {count} of them are modules, which go with this very kernel"),
    };
    text + &format!("{name} ({arch}) {found}{modules}\n")
}
