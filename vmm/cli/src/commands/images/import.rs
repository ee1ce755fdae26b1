//! `vmm images import`: an image from a disk of somebody else's.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use vmm::arch::Arch;
use vmm::image::{ImageError, ImageRef, ImageStore, Import, Imported, SystemFound};
use vmm::{CancelToken, Home};

use super::{print, print_json};
use crate::commands::run;
use crate::error::Failure;
use crate::progress::PullDisplay;
use crate::signals::SignalForwarder;

/// Make an image of a disk with a Linux system on it
///
/// The disk may be raw, qcow2 (with its backing files), VHD or VMDK, with partitions or without, and compressed (gzip,
/// xz, zstd, bzip2) or in an archive (tar, OVA, zip). What it is is told by its content. It is only read. The root file
/// system must be ext4 (or ext2, ext3); the newest kernel on it boots. Nothing needs to be installed on it.
#[derive(Args)]
#[command(after_help = "Examples:
  vmm images import debian-13.qcow2
  vmm images import disk.vmdk --name build:1.2
  vmm images import root.img.xz --kernel bzImage --modules ./lib/modules")]
pub(crate) struct ImportImage {
    /// The disk
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Call the image so, perhaps with a release or a whole version (default: the file's name, and the system's release)
    #[arg(long, value_name = "NAME[:VERSION]")]
    name: Option<ImageRef>,
    /// Boot this kernel: a bzImage or ELF file, or an Image for arm64 (default: the newest on the disk)
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Take the kernel's modules from this initial file system (default: from the disk)
    #[arg(long, value_name = "FILE", conflicts_with = "modules")]
    initrd: Option<PathBuf>,
    /// Take the kernel's modules from this folder or tar archive; an empty folder, if the kernel needs none
    #[arg(long, value_name = "FOLDER|FILE")]
    modules: Option<PathBuf>,
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    name: String,
    version: String,
    arch: Arch,
    #[serde(flatten)]
    found: SystemFound,
}

impl ImportImage {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let home = Home::open_default().map_err(vmm::Error::from)?;
        let store = ImageStore::open(home.root())?;
        let Some(arch) = self.arch.or_else(Arch::host) else {
            return Err(Failure::usage("no guest has this processor").with_hint("name one with --arch"));
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let Self { file, name, kernel, initrd, modules, json, .. } = self;
        let import = Import { file, name, arch, kernel, initrd, modules };
        let display = PullDisplay::new(quiet, &token);
        let imported = store.import(&import, &display);
        display.clear();
        match imported {
            Err(ImageError::Cancelled { .. }) => Ok(run::cancelled(&signals)),
            imported => report(imported?, json).map(|()| ExitCode::SUCCESS),
        }
    }
}

fn report(Imported { image, found }: Imported, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&Report {
            name: image.name().to_string(),
            version: image.version().to_string(),
            arch: image.arch(),
            found,
        });
    }
    let SystemFound { format, files, partition_table, root, system, kernel } = found;
    let upon = files.iter().skip(1).map(|file| format!("  upon    {}\n", file.display()));
    let backing: String = upon.collect();
    print(&format!(
        "{image}-{}: imported\n  disk    {format}, partition table: {partition_table}\n{backing}  root    {root}, {system}\n  \
         kernel  {kernel}\n",
        image.arch()
    ))
}
