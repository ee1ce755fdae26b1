//! `vmm images list`: the images that are here.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::image::{Sizes, Summary};

use super::super::{print_json, print_table};
use super::open;
use crate::error::Failure;
use crate::table;

#[derive(Args)]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    summary: Summary,
    /// What it takes of the host's disk; images that share layers each count them.
    real_bytes: Option<u64>,
    /// The size of its disk, as a guest sees it. Where a layer is missing, there are no sizes.
    disk_bytes: Option<u64>,
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let row = |summary: Summary| {
            let sizes = store.sizes_of_summary(&summary).ok();
            let (real_bytes, disk_bytes) = sizes.map(|Sizes { real, disk, .. }| (real, disk)).unzip();
            Row { summary, real_bytes, disk_bytes }
        };
        let rows: Vec<Row> = store.summaries()?.into_iter().map(row).collect();
        if self.json {
            print_json(&rows)?;
            return Ok(ExitCode::SUCCESS);
        }
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), table::bytes);
        let rows: Vec<_> = rows
            .into_iter()
            .map(|Row { summary, real_bytes, disk_bytes }| {
                vec![
                    summary.name.to_string(),
                    summary.version.to_string(),
                    summary.arch.to_string(),
                    summary.kernel,
                    size(summary.bytes),
                    size(real_bytes),
                    size(disk_bytes),
                ]
            })
            .collect();
        print_table(&["NAME", "VERSION", "ARCH", "KERNEL", "SIZE", "ON DISK", "GUEST DISK"], &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}
