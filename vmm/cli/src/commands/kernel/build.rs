//! `vmm kernel build`: a kernel from its source.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use vmm::CancelToken;
use vmm::arch::Arch;
use vmm::kernels::{self, BuildProgress, BuildStep, KernelName, KernelsError, Purpose};

use super::{open, print, print_json};
use crate::commands::run;
use crate::error::Failure;
use crate::progress::{Display, display};
use crate::signals::SignalForwarder;

/// Build a kernel that has what vmm needs and little else, and keep it in the store
///
/// The source is a tarball or a tree of Linux 6.12, such as Debian's package linux-source-6.12 has in /usr/src; a tree stays as
/// it is. The same source and the same compiler give the same kernel, bit for bit. It takes some minutes and 2 GB of disk
/// meanwhile.
#[derive(Args)]
pub(super) struct Build {
    /// What to call it
    #[arg(long, value_name = "NAME", default_value = "fast")]
    name: KernelName,
    /// What it is good for: fast, network, shared-folders, containers, nested (default: all but containers)
    #[arg(long, value_name = "FRAGMENTS", value_delimiter = ',')]
    fragments: Option<Vec<Purpose>>,
    /// The architecture: x86_64 or arm64 (default: this machine's)
    #[arg(long)]
    arch: Option<Arch>,
    /// How many files to compile at once (default: as many as there are processors)
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The source: a tarball or a tree
    source: PathBuf,
}

impl Build {
    pub(super) fn run(self, quiet: bool) -> Result<ExitCode, Failure> {
        let (_, store) = open()?;
        let arch = self.arch.or_else(Arch::host);
        let arch = arch
            .ok_or_else(|| Failure::usage("no guest has this processor").with_hint("name one with --arch"))?;
        let build = kernels::Build {
            source: self.source,
            name: self.name,
            arch,
            purposes: self.fragments.unwrap_or_else(|| Purpose::USUAL.to_vec()),
            jobs: self.jobs,
        };
        let token = CancelToken::new()?;
        let signals = SignalForwarder::install(&token)?;
        let shown = Shown { display: display(quiet).1, token };
        let built = store.build(&build, &shown);
        shown.display.clear();
        let details = match built {
            Err(KernelsError::Cancelled) => return Ok(run::cancelled(&signals)),
            built => built?.details(),
        };
        if self.json {
            print_json(&details)?;
        } else {
            print(&format!("{}\n", details.name))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct Shown {
    display: Display,
    token: CancelToken,
}

impl BuildProgress for Shown {
    fn step(&self, step: BuildStep) {
        match step {
            BuildStep::Reading => self.display.step("reading the source"),
            BuildStep::Unpacking => self.display.step("unpacking the source"),
            BuildStep::Configuring => self.display.step("configuring the kernel"),
            BuildStep::Compiling(0) => self.display.step("compiling the kernel"),
            BuildStep::Compiling(files) => {
                self.display.message(&format!("compiling the kernel: {files} files"));
            }
            _ => self.display.step("checking the kernel"),
        }
    }

    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}
