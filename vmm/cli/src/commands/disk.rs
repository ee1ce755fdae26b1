//! `vmm disk`: disk files, to be given to VMs by `--disk`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use vmm::{DiskFile, DiskSize};

use super::{print, print_json};
use crate::error::Failure;
use crate::table;

/// Make disk files and look after them
///
/// A VM gets one by `vmm run --disk FILE`. The format is what the file's name says: .qcow2, or .raw and .img.
#[derive(Args)]
#[command(after_help = "Example:
  vmm disk create data.qcow2 20G && vmm run --disk data.qcow2 alpine")]
pub(crate) struct Disk {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make an empty disk, which takes no space until it is written
    Create(Sized),
    /// Make a disk larger; the file systems on it are the guest's business
    Resize(Sized),
    /// Tell what a disk is
    Info(Info),
    /// Look for damage in a disk that no VM uses; the status is 1 where there is some
    Check(Named),
    /// Remove a disk that no VM uses
    Rm(Named),
}

#[derive(Args)]
struct Sized {
    /// The disk's file
    file: PathBuf,
    /// Its size, such as 512M or 20G
    size: DiskSize,
}

#[derive(Args)]
struct Named {
    /// The disk's file
    file: PathBuf,
}

#[derive(Args)]
struct Info {
    /// The disk's file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Described {
    file: PathBuf,
    format: &'static str,
    /// As the guest sees it.
    size: u64,
    /// What it takes of the host's disk.
    allocated: u64,
}

impl Disk {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Create(Sized { file, size }) => {
                DiskFile::create(&file, size)?;
                print(&format!("{}\n", file.display()))?;
            }
            Action::Resize(Sized { file, size }) => DiskFile::open(&file)?.resize(size)?,
            Action::Info(Info { file, json }) => info(&file, json)?,
            Action::Check(Named { file }) => return check(&file),
            Action::Rm(Named { file }) => DiskFile::open(&file)?.remove()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn info(file: &Path, json: bool) -> Result<(), Failure> {
    let disk = DiskFile::open(file)?;
    let info = disk.info()?;
    let described = Described {
        file: file.to_owned(),
        format: disk.format_name(),
        size: info.virtual_size,
        allocated: info.allocated_size,
    };
    if json {
        return print_json(&described);
    }
    let Described { format, size, allocated, .. } = described;
    print(&format!("{format}, {}, of which {} are used\n", table::bytes(size), table::bytes(allocated)))
}

fn check(file: &Path) -> Result<ExitCode, Failure> {
    let found = DiskFile::open(file)?.check()?;
    for line in &found.damage {
        print(&format!("{line}\n"))?;
    }
    if found.lost_clusters > 0 {
        print(&format!("{} clusters are lost to the file, without harm\n", found.lost_clusters))?;
    }
    if !found.damage.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    print("no damage found\n")?;
    Ok(ExitCode::SUCCESS)
}
