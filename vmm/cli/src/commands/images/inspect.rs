//! `vmm images inspect`: all that is known of an image.

use std::process::ExitCode;

use clap::Args;
use vmm::image::{CustomisationState, Image, ImageDetails, ImageStore};
use vmm::{Home, image_users};

use super::super::{print, print_json};
use super::{Named, open};
use crate::error::Failure;
use crate::table;

/// Say all that is known of an image
#[derive(Args)]
pub(super) struct Inspect {
    #[command(flatten)]
    image: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Inspection {
    #[serde(flatten)]
    details: ImageDetails,
    /// The VMs that boot from it.
    used_by: Vec<String>,
}

impl Inspect {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (home, store) = open()?;
        let image = self.image.find(&store)?;
        let inspection = inspect(&home, &store, &image)?;
        if self.json {
            print_json(&inspection)?;
        } else {
            print(&describe(&inspection))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn inspect(home: &Home, store: &ImageStore, image: &Image) -> Result<Inspection, Failure> {
    Ok(Inspection { details: store.details(image)?, used_by: image_users(home, image)? })
}

fn describe(inspection: &Inspection) -> String {
    let Inspection { details, used_by } = inspection;
    let mut lines = vec![
        ("image", format!("{}:{}", details.name, details.version)),
        ("architecture", details.arch.to_string()),
        ("kernel", details.kernel_release.clone()),
        ("folder", details.folder.display().to_string()),
        ("size", table::bytes(details.sizes.apparent)),
        ("on disk", table::bytes(details.sizes.real)),
        ("guest disk", table::bytes(details.sizes.disk)),
        ("root", format!("{} ({})", details.profile.root.device, details.profile.root.file_system)),
    ];
    if !details.profile.command_line.is_empty() {
        lines.push(("parameters", details.profile.command_line.join(" ")));
    }
    if let Some(pulled) = details.pulled {
        lines.push(("pulled", format!("{} ago", table::age(pulled))));
    }
    for layer in &details.layers {
        lines.push(("layer", format!("{} ({})", layer.id, table::bytes(layer.bytes))));
    }
    for origin in &details.origin {
        lines.push(("made from", format!("{} (sha256 {})", origin.name, origin.sha256)));
    }
    match details.customisation {
        CustomisationState::Pending => {
            lines.push(("customised", "not yet: its first start does it".to_owned()));
        }
        CustomisationState::Done => lines.push(("customised", "by its script, in a layer".to_owned())),
        CustomisationState::None => {}
    }
    if let Some(version) = details.system_version {
        lines.push(("vmm-image", version.to_string()));
    }
    match details.drifted {
        Some(true) => lines.push(("catalog", "has another entry of this version: pull it anew".to_owned())),
        Some(false) => lines.push(("catalog", "has the entry that it was made by".to_owned())),
        None => {}
    }
    let users = if used_by.is_empty() { "no VM".to_owned() } else { used_by.join(", ") };
    lines.push(("used by", users));
    lines.iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}
