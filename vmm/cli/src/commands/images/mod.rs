//! `vmm images`: the images that are here, and what can be done with them.

mod download;
mod export;
mod import;
mod inspect;
mod list;
mod prune;
mod rm;
mod tag;
mod verify;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use vmm::Home;
use vmm::arch::Arch;
use vmm::image::{Image, ImageRef, ImageStore, Removed};

use super::pull::Pull;
use super::{print, print_json};
use crate::error::Failure;
use crate::table;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  vmm images
  vmm images inspect alpine
  vmm images tag alpine mine:1.0
  vmm images export alpine alpine.qcow2
  vmm images rm mine && vmm images prune"
)]
pub(crate) struct Images {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: list::List,
}

#[derive(Subcommand)]
enum Command {
    /// List the images that are here
    #[command(visible_alias = "ls")]
    List(list::List),
    Inspect(inspect::Inspect),
    /// Fetch images, verify them and make them ready to boot
    Pull(Pull),
    Download(download::Download),
    Export(export::Export),
    Import(import::ImportImage),
    Tag(tag::Tag),
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    Prune(prune::Prune),
    Verify(verify::Verify),
}

impl Images {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        match self.command.unwrap_or(Command::List(self.list)) {
            Command::List(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Pull(command) => command.run(quiet),
            Command::Download(command) => command.run(quiet),
            Command::Export(command) => command.run(quiet),
            Command::Import(command) => command.run(quiet),
            Command::Tag(command) => command.run(),
            Command::Rm(command) => command.run(),
            Command::Prune(command) => command.run(),
            Command::Verify(command) => command.run(quiet),
        }
    }
}

/// An image of the store, as the user names it.
#[derive(Args)]
struct Named {
    /// An image that is here, such as alpine or alpine:3.23
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
}

impl Named {
    fn find(&self, store: &ImageStore) -> Result<Image, Failure> {
        let reference: ImageRef = self.image.parse()?;
        Ok(store.find(&reference, architecture(self.arch)?)?)
    }
}

/// The architecture that is asked for, or this machine's.
fn architecture(asked: Option<Arch>) -> Result<Arch, Failure> {
    asked
        .or_else(Arch::host)
        .ok_or_else(|| Failure::usage("no guest has this processor").with_hint("name one with --arch"))
}

/// The home and its store.
fn open() -> Result<(Home, ImageStore), Failure> {
    let home = Home::open_default().map_err(vmm::Error::from)?;
    let store = ImageStore::open(home.root())?;
    Ok((home, store))
}

/// What was removed, or would be.
#[derive(Serialize)]
struct Freed {
    removed: Vec<Removed>,
    bytes: u64,
}

impl Freed {
    fn new(removed: Vec<Removed>) -> Self {
        let bytes = removed.iter().map(|removed| removed.bytes).sum();
        Self { removed, bytes }
    }

    /// Tells of it: each thing on a line, then the sum, which `verb` begins.
    fn print(&self, verb: &str, json: bool) -> Result<(), Failure> {
        if json {
            return print_json(self);
        }
        let mut text = String::new();
        for Removed { what, path, bytes } in &self.removed {
            text.push_str(&format!("{what} {} ({})\n", path.display(), table::bytes(*bytes)));
        }
        text.push_str(&format!("{verb} {}\n", table::bytes(self.bytes)));
        print(&text)
    }
}
