//! `vmm images`: the images that are here.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use vmm::Home;
use vmm::image::{Image, ImageError, ImageStore};

use super::import::ImportImage;
use super::{print_json, print_table};
use crate::error::Failure;
use crate::table;

/// List the images that are here, or bring another one
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Images {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<ImagesCommand>,
}

#[derive(Subcommand)]
enum ImagesCommand {
    Import(ImportImage),
}

#[derive(Serialize)]
struct Row {
    name: String,
    version: String,
    arch: vmm::arch::Arch,
    kernel: String,
    bytes: u64,
}

impl Images {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        if let Some(ImagesCommand::Import(import)) = self.command {
            return import.run(quiet);
        }
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let store = ImageStore::open(home.root())?;
        let rows: Vec<Row> =
            store.list()?.iter().map(|image| Row::new(&store, image)).collect::<Result<_, _>>()?;
        if self.json {
            print_json(&rows)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| vec![row.name, row.version, row.arch.to_string(), row.kernel, table::bytes(row.bytes)])
            .collect();
        print_table(&["NAME", "VERSION", "ARCH", "KERNEL", "SIZE"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Row {
    fn new(store: &ImageStore, image: &Image) -> Result<Self, ImageError> {
        Ok(Self {
            name: image.name().to_string(),
            version: image.version().to_string(),
            arch: image.arch(),
            kernel: image.kernel_release().to_owned(),
            bytes: store.size(image)?,
        })
    }
}
