//! `vmm kernel list`: the kernels that were built here.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::kernels::{KernelDetails, Purpose};

use super::{open, print_json, print_table};
use crate::error::Failure;
use crate::table;

#[derive(Args)]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    details: KernelDetails,
    /// The names of the images that it was chosen for; `*` stands for all.
    chosen_for: Vec<String>,
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let mut listed = Vec::new();
        for kernel in store.list()? {
            listed.push(Listed { details: kernel.details(), chosen_for: store.chosen_for(kernel.name())? });
        }
        if self.json {
            print_json(&listed)?;
        } else {
            let rows: Vec<_> = listed.iter().map(row).collect();
            print_table(&["NAME", "RELEASE", "ARCH", "SIZE", "BUILT", "FRAGMENTS", "BOOTS"], &rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(Listed { details, chosen_for }: &Listed) -> Vec<String> {
    let fragments: Vec<_> = details.fragments.iter().copied().map(Purpose::name).collect();
    vec![
        details.name.to_string(),
        details.release.clone(),
        details.arch.to_string(),
        table::bytes(details.size),
        format!("{} ago", table::age(details.built.elapsed())),
        fragments.join(","),
        chosen_for.join(","),
    ]
}
