//! `vmm disk`: disk files, to be given to VMs by `--disk`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use vmm::{DiskCheck, DiskFile, DiskFormat, DiskSize, Home, Sandbox};

use super::{print, print_json};
use crate::error::Failure;
use crate::table;

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
    Info(Printed),
    /// Look for damage in a disk that no VM uses; the status is 1 where there is some
    Check(Printed),
    /// Give back to the host what is zero in a disk that no VM uses
    Compact(Printed),
    /// Remove a disk that no VM has, whether it runs or not
    Rm(Printed),
    /// Take a disk away from a stopped VM; its file stays
    Detach(Detach),
}

#[derive(Args)]
struct Named {
    /// The disk's file
    file: PathBuf,
    /// What the file is, whatever its name and its contents say
    #[arg(long)]
    format: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Raw,
    Qcow2,
}

#[derive(Args)]
struct Sized {
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Its size, such as 512M or 20G
    size: DiskSize,
}

#[derive(Args)]
struct Printed {
    #[command(flatten)]
    named: Named,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Detach {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Name, id or the beginning of an id
    #[arg(value_name = "VM")]
    vm: String,
    /// The disk's file
    file: PathBuf,
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

#[derive(Serialize)]
struct Compacted {
    file: PathBuf,
    /// What it took of the host's disk.
    before: u64,
    /// What it takes now.
    after: u64,
}

impl Disk {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.action {
            Action::Create(Sized { named, size, json }) => {
                let file = named.file.clone();
                let disk = named.create(size)?;
                let described = describe(file, &disk)?;
                if json {
                    print_json(&described)?;
                } else {
                    print(&format!("{}\n", described.file.display()))?;
                }
            }
            Action::Resize(Sized { named, size, json }) => resize(named, size, json)?,
            Action::Info(Printed { named, json }) => info(named, json)?,
            Action::Check(Printed { named, json }) => return check(named, json),
            Action::Compact(Printed { named, json }) => compact(named, json)?,
            Action::Rm(Printed { named, json }) => {
                let file = named.file.clone();
                named.open()?.remove(&home()?)?;
                tell_file(&file, json)?;
            }
            Action::Detach(Detach { vm, file, json }) => {
                Sandbox::attach(&home()?, &vm)?.remove_disk(&file)?;
                tell_file(&file, json)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    fn create(self, size: DiskSize) -> Result<DiskFile, Failure> {
        Ok(match self.format {
            Some(format) => DiskFile::create_as(self.file, format.into(), size)?,
            None => DiskFile::create(self.file, size)?,
        })
    }

    fn open(self) -> Result<DiskFile, Failure> {
        Ok(match self.format {
            Some(format) => DiskFile::open_as(self.file, format.into()),
            None => DiskFile::open(self.file)?,
        })
    }
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
        }
    }
}

fn home() -> Result<Home, Failure> {
    Ok(Home::open_default().map_err(vmm::Error::from)?)
}

/// Says which file it was done to.
fn tell_file(file: &Path, json: bool) -> Result<(), Failure> {
    if json { print_json(&json!({ "file": file })) } else { print(&format!("{}\n", file.display())) }
}

fn describe(file: PathBuf, disk: &DiskFile) -> Result<Described, Failure> {
    let info = disk.info()?;
    let (size, allocated) = (info.virtual_size, info.allocated_size);
    Ok(Described { file, format: disk.format_name(), size, allocated })
}

fn resize(named: Named, size: DiskSize, json: bool) -> Result<(), Failure> {
    let file = named.file.clone();
    let disk = named.open()?;
    let before = disk.info()?.virtual_size;
    disk.resize(size)?;
    let described = describe(file, &disk)?;
    if json {
        return print_json(&described);
    }
    let after = described.size;
    let file = described.file.display();
    print(&if after == before {
        format!("{file} has {} already\n", table::bytes(after))
    } else {
        format!("{file} had {}, and has {} now\n", table::bytes(before), table::bytes(after))
    })
}

fn info(named: Named, json: bool) -> Result<(), Failure> {
    let file = named.file.clone();
    let described = describe(file, &named.open()?)?;
    if json {
        return print_json(&described);
    }
    let Described { format, size, allocated, .. } = described;
    print(&format!("{format}, {}, of which {} are used\n", table::bytes(size), table::bytes(allocated)))
}

fn check(named: Named, json: bool) -> Result<ExitCode, Failure> {
    let file = named.file.clone();
    let found = named.open()?.check()?;
    if json {
        let DiskCheck { damage, lost_clusters, .. } = &found;
        print_json(&json!({ "file": file, "damage": damage, "lost_clusters": lost_clusters }))?;
        return Ok(if damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
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

fn compact(named: Named, json: bool) -> Result<(), Failure> {
    let file = named.file.clone();
    let found = named.open()?.compact(&home()?)?;
    let (before, after) = (found.before, found.after);
    if json {
        return print_json(&Compacted { file, before, after });
    }
    print(&format!("{} before, {} now\n", table::bytes(before), table::bytes(after)))
}
